"""What a run that was killed and resumed has reported: each step once, in its lines, in TensorBoard and in wandb."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eva02_mim.progress import LINES, Reporter
from tests.utils.test_wandb_run import offline_points

SPEED = {"lr": 1e-3, "grad_norm": 1.0, "images_per_s": 10.0, "step_s": 0.1, "data_s": 0.0}


def report(folder: Path, steps: range, *, start: int = 0, **wandb: str) -> None:
    """As a run that is killed after the last of these steps: it closes, so that all is on disk, but saves nothing."""
    reporter = Reporter(folder, 10, start=start, wandb=wandb)
    for step in steps:
        reporter.train(step, {"loss": 10.0 + step, **SPEED})
    reporter.close()


def test_steps_that_are_taken_again_are_reported_once_and_the_one_of_the_checkpoint_stays(tmp_path: Path):
    report(tmp_path, range(1, 8))
    report(tmp_path, range(5, 11), start=4)  # the checkpoint holds 4 steps
    expected = [(step, 10.0 + step) for step in range(1, 11)]
    assert [(line["step"], line["loss"]) for line in map(json.loads, (tmp_path / LINES).read_text().splitlines())] == expected
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == expected


def test_wandb_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb", reason="wandb is an extra: pip install wandb")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    report(tmp_path, range(1, 8), project="p")
    report(tmp_path, range(5, 11), start=4, project="p")
    points = offline_points(tmp_path)
    assert [(step, loss) for _, step, loss in points] == [(step, 10.0 + step) for step in range(1, 11)]
    assert len({name for name, _, _ in points}) == 1
