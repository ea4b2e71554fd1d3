"""Cores are shared out within what a process is allowed, whatever their numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eva02_det.launch.cores import by_nearness, share_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_parts_of_a_mask_with_gaps_are_disjoint_and_make_up_the_mask(of: int):
    mask = [0, 2, 5, 7, 40, 41, 42, 90]
    parts = [share_of(mask, number, of) for number in range(of)]
    assert [core for part in parts for core in part] == mask
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_order_by_nearness_keeps_every_core_also_unknown_ones():
    mask = [*sorted(os.sched_getaffinity(0)), 4001, 4003]
    assert sorted(by_nearness(mask)) == mask


BIND = """
import json, os, sys, threading
from eva02_det.launch import cores
waiting = threading.Event()
threading.Thread(target=waiting.wait, daemon=True).start()  # began before
cores.bind([max(cores.allowed())])
masks = [sorted(os.sched_getaffinity(int(t))) for t in os.listdir("/proc/self/task")]
child = os.popen(f"{sys.executable} -c 'import os; print(sorted(os.sched_getaffinity(0)))'").read()
sys.stdout.write(json.dumps([masks, json.loads(child)]))
"""


def python(code: str, **variables: str) -> str:
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"} | variables
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout


def test_binding_holds_for_all_threads_and_for_what_is_started_later():
    mine = [max(os.sched_getaffinity(0))]
    masks, child = json.loads(python(BIND))
    assert len(masks) > 1
    assert masks == [mine] * len(masks)
    assert child == mine


@pytest.mark.skipif(torch.cuda.is_available(), reason="cores are shared out where there is no GPU")
@pytest.mark.parametrize("sharing", [1, 2, 1000])
def test_processes_of_one_machine_share_its_cores(sharing: int):
    code = f"import torch; from eva02_det.launch.cores import share_cores; share_cores({sharing}); print(torch.get_num_threads())"
    assert int(python(code)) == max(1, len(os.sched_getaffinity(0)) // sharing)
