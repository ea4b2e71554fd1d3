"""What is asked of a cluster, in people's units, and what is refused before the queue."""

import os
from pathlib import Path

import pytest

from eva02_det.launch.cluster import check_cluster, in_queue
from eva02_det.launch.request import Request, gibibytes, minutes
from eva02_det.utils.errors import UserError

# two partitions as sinfo prints them
SINFO = """gpu*|2-00:00:00|16|64+|515000|gpu:a100:8(S:0-1)|a100,ib
gpu*|2-00:00:00|4|48|257000|gpu:4|v100
cpu|infinite|100|128|1031000|(null)|amd
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("30:00", 30), ("0:30", 1), ("12:00:00", 720), ("1-12", 2160), ("2-01:30", 2970), ("1-00:00:01", 1441)]
    + [("36h", 2160), ("90m", 90), ("2d", 2880)],
)
def test_times_as_slurm_and_people_write_them(text: str, expected: int):
    assert minutes(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("64", 64), ("64G", 64), ("480GB", 480), ("1.5T", 1536), ("512M", 0.5)])
def test_amounts_of_memory(text: str, expected: float):
    assert gibibytes(text) == expected


@pytest.mark.parametrize("text", ["tomorrow", "1:2:3:4", "-5", "12h30"])
def test_what_is_no_time_is_refused(text: str):
    with pytest.raises(UserError, match="write minutes, HH:MM:SS"):
        minutes(text)


@pytest.mark.parametrize("text", ["much", "0", "-3G"])
def test_what_is_no_amount_is_refused(text: str):
    with pytest.raises(UserError, match="write for example 480G"):
        gibibytes(text)


def test_there_is_a_process_for_each_gpu():
    assert Request(nodes=4, gpus_per_node=8).world == 32
    assert Request(nodes=2).world == 2
    assert Request(tasks_per_node=3).world == 3


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (Request(gpus_per_node=8, tasks_per_node=1), "each process uses one GPU; leave --tasks-per-node out"),
        (Request(nodes=0), "--nodes, --tasks-per-node, --cpus-per-task and --time must be at least 1"),
        (Request(time_min=2, signal_before_s=120), "--signal-before 120 s must lie within --time 2 min"),
        (Request(signal_before_s=0), "--signal-before 0 s must lie within"),
        (Request(max_requeues=-1), "--max-requeues -1"),
    ],
)
def test_what_no_cluster_could_give_is_refused(request_: Request, sentence: str):
    with pytest.raises(UserError, match=sentence):
        request_.check()


@pytest.fixture
def sinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster's answers, in the place of its commands."""
    (tmp_path / "answer").write_text(SINFO)
    for name in ("sinfo", "squeue"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ncat {tmp_path}/answer\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), os.environ["PATH"]]))
    return tmp_path / "answer"


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (Request(partition="fast"), "--partition fast: the cluster has cpu, gpu"),
        (Request(time_min=3000), r"--time \(minutes\) 3000: partition gpu has at most 2880"),
        (Request(partition="cpu", gpus_per_node=1), "--gpus-per-node 1: partition cpu has at most 0"),
        (Request(gpus_per_node=9), "--gpus-per-node 9: partition gpu has at most 8"),
        (Request(gpus_per_node=8, cpus_per_task=9), "--cpus-per-task x tasks 72: partition gpu has at most 64"),
        (Request(memory_gib=600), r"--memory \(GiB\) 600: partition gpu has at most 502"),
        (Request(nodes=21), "--nodes 21: partition gpu has at most 20"),
        (Request(constraint="h100"), "--constraint h100: the nodes of partition gpu have a100, ib, v100"),
    ],
)
def test_what_the_partition_has_not_is_refused(request_: Request, sentence: str, sinfo: Path):
    with pytest.raises(UserError, match=sentence):
        check_cluster(request_)


def test_what_the_partition_has_is_taken(sinfo: Path):
    big = Request(nodes=16, gpus_per_node=8, cpus_per_task=8, memory_gib=500, time_min=2880, constraint="a100")
    assert check_cluster(big) == []
    assert check_cluster(Request(partition="cpu", nodes=100, time_min=10**6)) == []
    assert check_cluster(Request(constraint="a100&ib")) == []  # left to SLURM


def test_without_slurm_it_is_said_that_nobody_was_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check_cluster(Request(nodes=1000)) == ["SLURM is not installed here: whether the cluster can give this was not asked"]
    assert in_queue(["12"]) == []


def test_jobs_in_the_queue_are_found(sinfo: Path):
    sinfo.write_text("12\n12\n7\n")
    assert in_queue(["12", "7", "8"]) == ["12", "7"]
