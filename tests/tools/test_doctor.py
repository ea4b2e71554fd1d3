"""tools/doctor.py as a user runs it: for a run that can be, for one that cannot, and in the ranks of a job."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.config import LazyConfig

from tests.engine.small_run import forget, small_config, write_set

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).resolve().parents[2]


def environment(root: Path, **variables: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "DETECTRON2_DATASETS": str(root), "PYTHONPATH": path, "SLURM_CONF": "/nonexistent", **variables}


def run(root: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools/doctor.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=root, env=environment(root, **variables), capture_output=True, text=True, check=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_set(tmp_path, "train", 8)
    write_set(tmp_path, "val", 3)
    chosen = small_config(tmp_path / "run")
    LazyConfig.save(chosen, str(tmp_path / "small.yaml"))
    forget("small_train", "small_val")
    return tmp_path / "small.yaml"


def test_a_run_that_can_be_ends_with_status_0_and_one_line_a_finding(config: Path):
    root = config.parent
    done = run(root, "--folder", root / "runs", "--config-file", config, "train.log_period=5")
    assert done.returncode == 0, done.stdout + done.stderr
    for said in (
        r"ok       versions: Python 3\.\d+",
        r"ok       packages: ",
        r"ok       gloo: two ranks of this machine: the sum of 16 MiB is right",
        r"ok       rename: a file replaced 60 times was whole",
        r"ok       checkpoint: 0\.\d+ GiB at",
        r"ok       data small_train: 8 images, 8 annotations, 5 classes",
        r"ok       loader memory: 1 processes x",
        r"(note|warning)  +SLURM: ",
        r"0 faults, ",
    ):
        assert re.search(rf"^{said}", done.stdout, re.MULTILINE), (said, done.stdout)


def test_what_would_end_a_run_ends_the_tool_with_status_1_and_a_remedy_each(config: Path):
    root = config.parent
    done = run(root, "--no-loader", "--config-file", config, "--data", "lvis_v1_train", GLOO_SOCKET_IFNAME="nonsense0")
    assert done.returncode == 1, done.stdout + done.stderr
    faults = re.findall(r"^fault +(.*)\n +remedy: (.+)$", done.stdout, re.MULTILINE)
    assert {text.split(":")[0] for text, _ in faults} == {"gloo", "data lvis_v1_train", "LVIS train2017", "LVIS val2017"}
    assert "4 faults" in done.stdout


def test_the_ranks_of_a_job_are_tested_over_their_own_network():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    code = "from eva02_det.launch.check_ranks import check_job_ranks; from eva02_det.launch.place import find_place; "
    code += "print(*check_job_ranks(find_place()).lines())"
    meeting = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment(ROOT, **meeting, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=200)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    for text in said:
        assert re.search(rf"^ok +ranks: 2 of torchrun on 1 machines \({socket.gethostname()}\), \w+: the sum of 16 MiB is", text)


def test_overrides_without_a_config_are_refused(tmp_path: Path):
    done = run(tmp_path, "train.batch=2")
    assert done.returncode == 2
    assert done.stderr.startswith("error: overrides change a config")
