"""tools/submit.py as a user calls it where there is no SLURM: what it would do, and a run on this machine."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mim.nano_run import RECIPE, ROOT, draw_pictures, losses

SHORT = ["train.batch=16", "train.device=cpu", "train.log_period=1", "train.checkpoints.period=1000"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Programs without SLURM's."""
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs/git").symlink_to("/usr/bin/git")
    paths = {"PATH": str(tmp_path / "programs"), "PYTHONPATH": str(ROOT), "EVA02_MIM_CACHE": str(tmp_path / "cache")}
    return {**os.environ, "OMP_NUM_THREADS": "1", **paths}


def submit(env: dict[str, str], folder: Path, *options: str, settings: list[str] | None = None) -> "subprocess.Popen[str]":
    """The tool, started in `folder`, for a pre-training there."""
    images = f"dataloader.train.source.spec={draw_pictures(folder / 'pictures', count=32)}"
    run = ["--config-file", str(RECIPE), images, "train.output_dir=run", *SHORT, *(settings or [])]
    command = [sys.executable, str(ROOT / "tools/submit.py"), "pretrain", *options, "--", *run]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=env, **pipes)


def test_a_dry_run_shows_script_ranks_commands_and_the_run_without_slurm(env: dict[str, str], tmp_path: Path):
    out, error = submit(env, tmp_path, "--dry-run", "--nodes", "2", "--tasks-per-node", "2").communicate(timeout=300)
    assert error == "note: SLURM is not installed here: whether the cluster can give this was not asked\n"
    parts = dict(re.findall(r"== ([\w ]+) ==\n(.*?)(?=\n== |\Z)", out, re.DOTALL))
    assert list(parts) == ["batch script", "ranks", "commands", "run"]
    assert "#SBATCH --ntasks-per-node=2" in parts["batch script"]
    assert "rank 3: node 1" in parts["ranks"]
    assert "tools/pretrain.py --resume" in parts["commands"]
    assert "4 images in each of 4 processes" in parts["run"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "settings", "sentence"),
    [
        ([], [], "error: sbatch and srun are not here; submit on a login node of the cluster, or pass --local or --dry-run"),
        (["--dry-run"], ["train.sed=1"], "error: unknown override key 'train.sed': train has no 'sed'; did you mean 'seed'?"),
    ],
)
def test_what_cannot_run_is_said_before_the_queue(
    options: list[str], settings: list[str], sentence: str, env: dict[str, str], tmp_path: Path
):
    process = submit(env, tmp_path, *options, settings=settings)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 2
    assert error.splitlines()[-1].startswith(sentence)
    assert "Traceback" not in error


@pytest.mark.distributed
def test_a_run_on_this_machine_that_is_signalled_starts_again_and_ends(env: dict[str, str], tmp_path: Path):
    steps, run = 300, tmp_path / "run"
    process = submit(env, tmp_path, "--local", "--tasks-per-node", "2", settings=[f"train.max_steps={steps}"])
    while not (run / "metrics.jsonl").is_file() or len(losses(run)) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    (log,) = (run / "launch").glob("*_0_log.out")
    controller = log.name.split("_")[0]
    for task in Path(f"/proc/{controller}/task/{controller}/children").read_text().split():
        os.kill(int(task), signal.SIGUSR2)
    out, error = process.communicate(timeout=500)
    assert process.returncode == 0, out + error + log.read_text()[-3000:]
    assert "1 of 1 came to their end" in out
    said = log.read_text()
    assert said.count("told to stop by SIGUSR2") == 1
    assert said.count("Starting with JobEnvironment") == 2
    assert list(losses(run)) == list(range(1, steps + 1))
