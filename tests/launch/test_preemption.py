"""Being told to stop: all ranks agree at one step, whoever was told, and loader workers live until the run has saved."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eva02_det.launch import preemption

ROOT = Path(__file__).resolve().parents[2]
# a loop of small steps on batches of a loader with workers; says where it stopped
LOOP = """
import os, signal, sys, time
import torch, torch.distributed as dist
from torch.utils.data import DataLoader
from eva02_det.launch import preemption

rank, world, workers = (int(text) for text in sys.argv[1:4])
if world > 1:
    dist.init_process_group("gloo", init_method=sys.argv[4], rank=rank, world_size=world)

class Numbers(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(range(100_000))

with preemption.watch():
    for step, batch in enumerate(DataLoader(Numbers(), batch_size=4, num_workers=workers), start=1):
        time.sleep(0.01)
        if step == 5:
            sys.stdout.write(f"ready {os.getpid()}\\n"); sys.stdout.flush()
        if notice := preemption.stop_agreed():
            time.sleep(0.5)  # a second signal comes meanwhile
            sys.stdout.write(f"saved {step} {notice}\\n"); sys.stdout.flush()
            preemption.stop(notice)
"""


def loops(world: int, workers: int, folder: Path) -> list[subprocess.Popen[str]]:
    """Running loops, past their first steps, each the leader of its own group of processes."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    code = [sys.executable, "-c", LOOP]
    arguments = [str(world), str(workers), f"file://{folder / 'meeting'}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    started = [subprocess.Popen([*code, str(rank), *arguments], env=env, **pipes) for rank in range(world)]
    for process in started:
        line = process.stdout.readline()
        assert line.startswith("ready"), line + process.stderr.read()
    return started


def ends(started: list[subprocess.Popen[str]]) -> list[str]:
    """What each said at its end; all end with the status that means: saved, run again."""
    said = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [preemption.STATUS] * len(started), said
    return [out.strip() for out, _ in said]


@pytest.mark.parametrize(("number", "name"), [(signal.SIGUSR2, "USR2"), (signal.SIGTERM, "TERM")])
def test_all_ranks_stop_at_one_step_when_one_of_them_is_told(number: int, name: str, tmp_path: Path):
    started = loops(2, 0, tmp_path)
    started[1].send_signal(number)
    first, second = ends(started)
    assert first == second
    assert first.split()[2] == name


def test_a_signal_to_every_process_of_the_job_leaves_workers_alive_until_all_is_saved(tmp_path: Path):
    (process,) = started = loops(1, 2, tmp_path)
    for number in (signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2):  # what slurmd sends, workers included
        os.killpg(process.pid, number)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGTERM)
    assert ends(started)[0].startswith("saved")


def watched(*signals: signal.Signals, raising: BaseException | None = None) -> None:
    """What a loop does that is told to stop; it ends by `raising`, else as it was told to."""
    with preemption.watch():
        for number in signals:
            signal.raise_signal(number)
        raise raising or preemption.Stopped(preemption.stop_agreed() or "")


@pytest.mark.parametrize("order", [(signal.SIGTERM, signal.SIGUSR2), (signal.SIGUSR2, signal.SIGTERM)])
def test_usr2_outweighs_term_as_it_asks_to_be_queued_again(order: tuple[signal.Signals, ...]):
    try:
        with pytest.raises(preemption.Stopped) as stopped:
            watched(*order)
        assert stopped.value.signal == "USR2"
        assert stopped.value.code == preemption.STATUS
    finally:
        preemption.watch().__exit__(ValueError, ValueError(), None)


def test_what_came_too_late_for_the_loop_reaches_whom_it_was_meant_for():
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))
    try:
        with preemption.watch():
            signal.raise_signal(signal.SIGUSR2)
            assert preemption.noticed() == "USR2"
            assert heard == []
        assert heard == [signal.SIGUSR2]
        assert preemption.noticed() is None
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_an_error_in_the_loop_gives_the_signals_back_and_delivers_nothing():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    with pytest.raises(ValueError, match="of the loop"):
        watched(signal.SIGTERM, raising=ValueError("of the loop"))
    assert {number: signal.getsignal(number) for number in before} == before
    assert preemption.stop_agreed() is None
