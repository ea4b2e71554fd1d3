"""How a run is started: what is refused, and what each process is told."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eva02_det.launch.process_group import start, under_torchrun
from eva02_det.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def options(**changes: object) -> argparse.Namespace:
    return argparse.Namespace(**{"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto", **changes})


def test_one_process_is_simply_called():
    seen: list[argparse.Namespace] = []
    start(seen.append, options())
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_gpus": 0}, "--num-gpus 0"),
        ({"num_machines": 2, "machine_rank": 2}, "--machine-rank 2"),
        ({"num_machines": 2}, "pass --dist-url tcp://HOST:PORT"),
        ({"machine_rank": -1}, "--machine-rank -1"),
    ],
)
def test_a_start_that_cannot_work_is_refused(changes: dict, named: str):
    with pytest.raises(UserError, match=named):
        start(print, options(**changes))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.gpu
def test_more_processes_than_gpus_are_refused():
    with pytest.raises(UserError, match="this machine has"):
        start(print, options(num_gpus=torch.cuda.device_count() + 1))


def test_torchrun_is_recognised_by_all_its_variables(monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    assert not under_torchrun()
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert under_torchrun()


def test_a_run_may_leave_its_process_group_before_it_ends():
    code = "from eva02_det.launch.process_group import leave, start\nimport torch.distributed as dist\n"
    code += "def main(_): leave(); leave(); print(dist.is_initialized())\nstart(main, None)"
    torchrun = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, **torchrun, "MASTER_PORT": "0", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["False"]
