"""Ranks that are killed, stopped or fail, in real processes: who is named, in what time, and how the others end."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eva02_det.launch import watchdog
from eva02_det.launch.member import Member
from eva02_det.utils.errors import UserError

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 2.0
IN_TIME_S = PATIENCE_S + 15  # patience, a few beats, and a machine that is busy with other tests


class Ranks:
    """Processes of tests/launch/watched.py that do `what`; stopped and killed at will. places: each is told its rank."""

    def __init__(self, what: str, folder: Path, world: int = 2, *, places: bool = True, **variables: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.folder = folder
        env = os.environ | {
            "OMP_NUM_THREADS": "1",
            "NOTES": str(folder),
            "EVA02_RANK_TIMEOUT": str(PATIENCE_S),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            **variables,
        }
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        command = [sys.executable, str(ROOT / "tests/launch/watched.py"), what]
        self.errors = [folder / f"stderr_{rank}" for rank in range(world)]
        self.processes = []
        for rank, file in enumerate(self.errors):
            ranked = env | ({"RANK": str(rank), "LOCAL_RANK": str(rank), **meeting} if places else {})
            with file.open("w") as stream:
                self.processes.append(subprocess.Popen(command, env=ranked, cwd=ROOT, stdout=stream, stderr=stream))

    def wait_for_steps(self) -> None:
        until = time.monotonic() + 60
        while not all((self.folder / f"steps_{rank}").exists() for rank in range(len(self.processes))):
            assert time.monotonic() < until, self.said(0)
            time.sleep(0.05)
        time.sleep(0.5)  # beats have been seen

    def send(self, rank: int, number: int) -> None:
        self.processes[rank].send_signal(number)

    def status(self, rank: int, within_s: float = IN_TIME_S) -> int:
        return self.processes[rank].wait(within_s)

    def said(self, rank: int) -> str:
        return self.errors[rank].read_text(errors="replace")

    def name(self, rank: int) -> str:
        return f"rank {rank} (host {socket.gethostname()}, pid {self.processes[rank].pid})"

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator:
    started: list[Ranks] = []

    def start(what: str, world: int = 2, **options: Any) -> Ranks:
        started.append(Ranks(what, tmp_path, world, **options))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_rank_is_named_by_the_others_although_they_fail_of_the_connection_first(ranks, lost: int):
    run = ranks("exchange", world=3 - (lost == 0))
    run.wait_for_steps()
    run.send(lost, signal.SIGKILL)
    for rank in set(range(len(run.processes))) - {lost}:
        assert run.status(rank) == watchdog.STATUS, run.said(rank)
        assert f"error: {run.name(lost)} is gone" in run.said(rank) or (lost == 0 and run.name(0) in run.said(rank))


def test_ranks_that_wait_for_nobody_end_too_and_say_where_they_were(ranks):
    run = ranks("apart")
    run.wait_for_steps()
    run.send(1, signal.SIGKILL)
    assert run.status(0) == watchdog.STATUS
    assert run.name(1) in run.said(0)
    assert "time.sleep(60)" in run.said(0)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_rank_that_does_not_answer_is_named_and_ended(ranks, lost: int):
    run = ranks("exchange")
    run.wait_for_steps()
    run.send(lost, signal.SIGSTOP)
    other = 1 - lost
    assert run.status(other) == watchdog.STATUS, run.said(other)
    assert re.search(rf"error: {re.escape(run.name(lost))}.*has not answered for \d+ s", run.said(other)), run.said(other)
    assert "dist.all_reduce" in run.said(other), "the place where it hung"
    assert run.status(lost) == -signal.SIGKILL, "a stopped process would hold its GPU for ever"


def test_a_rank_says_what_ended_it(ranks):
    run = ranks("error_in_one")
    assert run.status(1, 150) == 1
    assert "ValueError: the shelf is empty" in run.said(1)
    assert run.status(0) == watchdog.STATUS
    assert f"error: {run.name(1)} ended: ValueError: the shelf is empty" in run.said(0)


def test_an_error_that_all_ranks_come_to_keeps_its_status(ranks):
    run = ranks("same_error")
    assert [run.status(rank, 150) for rank in range(2)] == [2, 2], run.said(0) + run.said(1)


def test_a_rank_that_works_long_is_not_taken_for_lost_nor_one_that_said_goodbye(ranks):
    run = ranks("busy", EVA02_RANK_TIMEOUT="1.5")
    assert [run.status(rank, 150) for rank in range(2)] == [0, 0], run.said(0) + run.said(1)


def test_a_run_that_was_suspended_as_a_whole_goes_on(ranks):
    run = ranks("exchange", STEPS_S="6")
    run.wait_for_steps()
    for rank in range(2):
        run.send(rank, signal.SIGSTOP)
    time.sleep(PATIENCE_S + 1)
    for rank in range(2):
        run.send(rank, signal.SIGCONT)
    assert [run.status(rank, 60) for rank in range(2)] == [0, 0], run.said(0) + run.said(1)


def test_a_stalled_step_shows_where_it_hangs_and_ends_nothing(ranks):
    run = ranks("stalled", EVA02_STALL_TIMEOUT="1")
    assert [run.status(rank, 150) for rank in range(2)] == [0, 0]
    assert "no step in" in run.said(0)
    assert "in barrier" in run.said(0)
    assert "in stalled" in run.said(1)


def test_who_started_the_processes_names_the_one_that_was_killed(ranks):
    run = ranks("spawn", world=1, places=False)
    assert run.status(0, 240) == watchdog.STATUS
    assert re.search(r"error: process 1 of this machine \(pid \d+\) was ended by SIGKILL; was memory short", run.said(0))


def test_a_process_that_is_alone_needs_no_other(monkeypatch: pytest.MonkeyPatch):
    with watchdog.watching():
        watchdog.step()
    monkeypatch.setenv("EVA02_STALL_TIMEOUT", "soon")
    with pytest.raises(UserError, match="EVA02_STALL_TIMEOUT='soon' is no number of seconds"), watchdog.watching():
        pass


def test_a_member_is_known_by_its_start_and_not_by_its_pid_alone():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    me = Member.here(0)
    born = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
    other = Member(1, me.host, child.pid, me.machine, born)
    assert not other.is_gone
    assert Member(1, me.host, child.pid, me.machine, born - 1).is_gone, "its pid was given to another process"
    assert not Member(1, "elsewhere", child.pid, "another machine", born - 1).is_gone
    child.kill()
    time.sleep(0.2)
    assert other.is_gone, "ended, although nobody waited for it"
    child.communicate()
    assert other.is_gone
