"""A real SLURM on this machine, for tests: started and stopped by cluster.sh, asked and told by its own commands."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("cluster.sh")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
LONG_S = 300.0


def lacking() -> str:
    """Why there can be no cluster here; empty where there can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"a real SLURM needs {', '.join(missing)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "the daemons of a real SLURM are started as root"


class Cluster:
    """One node. `folder` holds its state; `data` is what jobs find as DETECTRON2_DATASETS."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        settings = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "SLURM_CONF": str(folder / "slurm.conf")}
        self.env = {**os.environ, **settings, "DETECTRON2_DATASETS": str(data), "EVA02_MIM_CACHE": str(folder / "cache")}

    def start(self) -> None:
        subprocess.run(["bash", str(SCRIPT), "start", str(self.folder)], check=True, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        self.call("scancel", "--user=root", check=False)
        subprocess.run(["bash", str(SCRIPT), "stop", str(self.folder)], check=True)

    def call(self, *command: str, check: bool = True) -> str:
        """What one of SLURM's commands prints."""
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=check, timeout=60).stdout

    def tell(self, *command: str, until: Callable[[], None]) -> None:
        """Give a command and wait for what it does, not for its end: scancel asks again for minutes while a job is in transit."""
        given = subprocess.Popen(command, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until()
        finally:
            given.kill()
            given.wait()

    def submit(self, *arguments: str, checkout: Path = ROOT) -> list[str]:
        """Ids of the jobs that tools/submit.py submits."""
        command = [sys.executable, str(checkout / "tools/submit.py"), *arguments]
        env = {**self.env, "PYTHONPATH": str(checkout)}
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False, timeout=LONG_S)
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall(r"submitted job (\w+);", done.stdout)

    def field(self, job: str, name: str) -> str:
        """A field of `scontrol show job`."""
        found = re.search(rf"\b{name}=(\S*)", self.call("scontrol", "show", "job", "-o", job))
        assert found, name
        return found[1]

    def restarts(self, job: str) -> int:
        return int(self.field(job, "Restarts"))

    def end_within_a_minute(self, job: str) -> None:
        """Set the time limit of a running job to the next full minute."""
        hours, minutes, _ = self.field(job, "RunTime").split(":")
        self.call("scontrol", "update", f"JobId={job}", f"TimeLimit={60 * int(hours) + int(minutes) + 1}")

    def wait(self, job: str, logs: Path, until: Callable[[], bool]) -> None:
        """Until a condition holds; a job that has been queued again need not wait the two minutes that SLURM gives it."""
        end = time.monotonic() + LONG_S
        while not until():
            state, reason = self.field(job, "JobState"), self.field(job, "Reason")
            if (state, reason) == ("PENDING", "BeginTime"):
                self.call("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
            text = "\n".join(f"{one}:\n{one.read_text()[-2000:]}" for one in sorted(logs.glob(f"{job}_*log.out")))
            assert state in ("PENDING", "RUNNING", "SIGNALING", "COMPLETING", "COMPLETED"), f"{job} is {state} ({reason})\n{text}"
            assert time.monotonic() < end, f"{job} is {state} ({reason}) after {LONG_S} s\n{text}"
            time.sleep(0.1)

    def finish(self, job: str, logs: Path) -> None:
        """Until the job has ended well."""
        self.wait(job, logs, lambda: self.field(job, "JobState") == "COMPLETED")
