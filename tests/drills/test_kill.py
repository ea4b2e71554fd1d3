"""The drill: killed at random moments, told to stop, on a full disk, with a damaged checkpoint, a training ends the same.

The suite takes a few moments; EVA02_DRILL_MOMENTS=30 takes as many.
"""

import json
import logging
import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from eva02_det.launch.preemption import STATUS
from tests.checkpoint.small_disk import disk_of
from tests.drills.lives import BEGAN, LOG, PERIOD, STEPS, SUBJECTS, Drill, Subject, forked
from tests.engine.small_run import write_set
from tests.mim.nano_run import draw_pictures

MOMENTS = int(os.environ.get("EVA02_DRILL_MOMENTS", "4"))
NUMBERS = ("loss", "grad_norm", "lr", "skipped", "validation_loss")  # of a student; the rest is of the clock

logger = logging.getLogger(__name__)
pytestmark = pytest.mark.slow


def trace(subject: Subject, run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / subject.trace).read_text().splitlines()]
    return [{k: v for k, v in line.items() if subject.name == "detector" or k in ("step", *NUMBERS)} for line in lines]


def tensors(value: Any, place: str = "") -> dict[str, Any]:
    """Every tensor and number of nested containers, by its place."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in tensors(inner, f"{place}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, inner in enumerate(value) for k, v in tensors(inner, f"{place}/{i}").items()}
    return {place: value}


def last(subject: Subject, run: Path) -> dict[str, Any]:
    name = "model_final.pth" if subject.name == "detector" else f"checkpoint_{STEPS:07d}.pt"
    content = torch.load(run / name, weights_only=True)
    for state in content.get("random", ()):  # a student draws from torch alone, and the others begin anywhere
        del state["python"], state["numpy"]
    return tensors(content)


@pytest.fixture(scope="module", params=SUBJECTS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, Path]:
    """A subject, and the folder of its data with a run `whole` that nobody disturbed."""
    home = tmp_path_factory.mktemp(request.param)
    write_set(home, "train", 7)
    write_set(home, "val", 2)
    draw_pictures(home / "images")
    process = forked(request.param, str(home), str(home / "whole"), False, False)
    process.join()
    assert process.exitcode == 0, (home / "whole" / LOG).read_text()[-3000:]
    return SUBJECTS[request.param], home


def assert_same(subject: Subject, run: Path, whole: Path) -> None:
    assert trace(subject, run) == trace(subject, whole)
    one, other = last(subject, run), last(subject, whole)
    assert one.keys() == other.keys()
    for key, value in other.items():
        same = torch.equal(one[key], value) if isinstance(value, torch.Tensor) else one[key] == value
        assert same, f"{run.name}: {key} differs"
    assert not [path.name for path in run.iterdir() if path.name.endswith((".part", ".damaged"))]


def test_killed_at_random_moments_it_loses_no_step_beyond_the_last_checkpoint_and_ends_the_same(
    whole: tuple[Subject, Path], tmp_path: Path
):
    subject, home = whole
    drill = Drill(subject, home, tmp_path, MOMENTS)
    drill.go()
    told = f"{drill.kills} kills, {drill.in_writing} of them in a write, {len(drill.runs)} runs, gone on from {drill.starts}"
    logger.info("%s: %s", subject.name, told)  # shown by --log-cli-level INFO
    assert drill.kills == MOMENTS
    assert drill.in_writing >= MOMENTS // 6, "kills in the middle of a checkpoint"
    assert all(held == start for held, start in drill.starts), drill.starts
    for run in drill.runs:
        assert_same(subject, run, home / "whole")


def test_told_to_stop_it_saves_after_its_step_ends_with_75_and_goes_on_to_the_same_end(
    whole: tuple[Subject, Path], tmp_path: Path
):
    subject, home = whole
    run, number = tmp_path / "run", signal.SIGTERM if subject.name == "detector" else signal.SIGUSR2
    stopped = forked(subject.name, str(home), str(run), False, number == signal.SIGUSR2)
    wanted = random.randrange(1, 12)
    while subject.reported(run) < wanted:
        assert stopped.exitcode is None
        time.sleep(0.002)
    os.kill(stopped.pid, number)
    stopped.join()
    assert stopped.exitcode == STATUS, (run / LOG).read_text()[-3000:]
    assert subject.complete(run) == subject.reported(run), "no step is lost"
    again = forked(subject.name, str(home), str(run), True, False)
    again.join()
    assert again.exitcode == 0, (run / LOG).read_text()[-3000:]
    assert_same(subject, run, home / "whole")


def test_on_a_full_disk_it_trains_on_and_says_so_and_ends_with_a_sentence_the_old_checkpoints_whole(
    whole: tuple[Subject, Path], tmp_path: Path
):
    subject, home = whole
    mib = max(file.stat().st_size for file in (home / "whole").glob(subject.files)) / 2**20
    with disk_of(tmp_path / "disk", mib=2.6 * mib + 1) as disk:
        run = disk / "run"
        process = forked(subject.name, str(home), str(run), False, True, None)
        process.join()
        said = (run / LOG).read_text()
        assert process.exitcode == 2, said[-3000:]
        assert subject.reported(run) == STEPS
        assert said.count("training goes on, and the next save tries again") >= STEPS // PERIOD - 3
        assert re.search(r"^error: checkpoint .*could not be written: No space left on device .*; make room", said, re.MULTILINE)
        assert subject.complete(run) == 2 * PERIOD, "those that fit"

        min(run.glob(subject.files)).unlink()
        again = forked(subject.name, str(home), str(run), True, False, 1)  # room for one more than stay
        again.join()
        assert again.exitcode == 0, (run / LOG).read_text()[-3000:]
        assert_same(subject, run, home / "whole")


def test_with_the_latest_checkpoint_cut_short_it_warns_goes_on_from_the_one_before_and_ends_the_same(
    whole: tuple[Subject, Path], tmp_path: Path
):
    subject, home = whole
    run = tmp_path / "run"
    killed = forked(subject.name, str(home), str(run), False, False)
    while subject.reported(run) < 3 * PERIOD + 1:
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    held = subject.complete(run)
    latest = max(run.glob(subject.files))
    os.truncate(latest, latest.stat().st_size // 2)
    spoken = (run / LOG).stat().st_size
    again = forked(subject.name, str(home), str(run), True, False)
    again.join()
    said = (run / LOG).read_text()[spoken:]
    assert again.exitcode == 0, said[-3000:]
    assert re.search(
        rf"WARNING.*{latest.name} is damaged \(it was cut short .* set aside as {latest.name}.damaged; .* instead", said
    )
    assert int(BEGAN.search(said)[1]) == held - PERIOD
    latest.with_name(latest.name + ".damaged").unlink()
    assert_same(subject, run, home / "whole")
