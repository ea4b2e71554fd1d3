"""Ranks that meet as SLURM started them, and ranks that do not: who is missing is named within the stated time."""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eva02_det.launch.meeting import meet
from eva02_det.launch.place import Place
from eva02_det.launch.process_group import device_of, processes, start
from eva02_det.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TASK = """
import argparse, json, os, sys
import torch, torch.distributed as dist
from detectron2.utils import comm
from eva02_det.launch.meeting import meet
from eva02_det.launch.place import Place
from eva02_det.launch.process_group import start
from eva02_det.utils.errors import run_tool

def task(_):
    total = torch.tensor(comm.get_rank() + 1)
    dist.all_reduce(total)
    seen = {"rank": comm.get_rank(), "local": comm.get_local_rank(), "sum": int(total), "cores": sorted(os.sched_getaffinity(0))}
    sys.stdout.write(json.dumps(seen) + "\\n")

options = argparse.Namespace(num_gpus=1, num_machines=1, machine_rank=0, dist_url="auto")
run_tool(lambda: start(task, options))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def step(rank: int, world: int) -> dict[str, str]:
    """What `srun` on this machine tells a task."""
    names = {"STEP_NUM_TASKS": world, "STEP_TASKS_PER_NODE": world, "STEP_NODELIST": "localhost", "STEP_ID": 0, "JOB_ID": 1}
    names |= {"PROCID": rank, "LOCALID": rank, "NODEID": 0}
    return {f"SLURM_{name}": str(value) for name, value in names.items()}


def test_tasks_of_srun_meet_and_are_bound_to_parts_of_the_cores():
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path, "MASTER_PORT": str(free_port())}
    places = [{**env, **step(rank, 2)} for rank in range(2)]
    tasks = [subprocess.Popen([sys.executable, "-c", TASK], env=one, stdout=subprocess.PIPE, text=True) for one in places]
    ended = [task.communicate(timeout=120) for task in tasks]
    seen = [json.loads(out) for out, _ in ended]
    assert [(one["rank"], one["local"], one["sum"]) for one in seen] == [(0, 0, 3), (1, 1, 3)]
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) > 1:
        assert sorted(seen[0]["cores"] + seen[1]["cores"]) == mine


def place(rank: int, port: int) -> Place:
    return Place("SLURM", rank, 3, rank, 3, "localhost", port)


def test_a_rank_that_does_not_come_is_named_in_time():
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"rank 0 on .* waited 1 s at localhost:\d+ for 2 of 3 ranks: 1, 2 did not come"):
        meet(place(0, free_port()), seconds=1)
    assert time.monotonic() - begun < 30  # and not the half hour of a process group


def test_a_rank_that_cannot_reach_the_address_says_so():
    with pytest.raises(UserError, match=r"rank 1 on .* did not reach rank 0 at localhost:\d+ within 1 s; see whether"):
        meet(place(1, free_port()), seconds=1)


def test_a_port_in_use_is_said_by_rank_0():
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"rank 0 on .* cannot open .*; set MASTER_PORT to a free port"):
            meet(place(0, taken.getsockname()[1]), seconds=1)


def test_processes_asked_of_tasks_that_are_processes_are_refused(monkeypatch: pytest.MonkeyPatch):
    for name, value in step(0, 2).items():
        monkeypatch.setenv(name, value)
    options = argparse.Namespace(num_gpus=8, num_machines=1, machine_rank=0, dist_url="auto")
    with pytest.raises(UserError, match="SLURM started 2 processes and --num-gpus 8 asks each of them for 8 more"):
        start(print, options)
    assert processes(argparse.Namespace(num_gpus=1, num_machines=1)) == 2


def test_a_process_takes_the_gpu_of_its_number_or_the_one_it_sees():
    assert [device_of(rank, 4) for rank in range(4)] == [0, 1, 2, 3]
    assert [device_of(rank, 1) for rank in range(4)] == [0, 0, 0, 0]
    with pytest.raises(UserError, match="process 2 of this machine has no GPU, as 2 are visible"):
        device_of(2, 2)
