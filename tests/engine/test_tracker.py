"""The numbers of a run that was killed and resumed: every iteration once, in metrics.json, TensorBoard and wandb."""

import json
from pathlib import Path

import pytest
from detectron2.engine import TrainerBase
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eva02_det.engine.tracker import METRICS_FILE, Tracking
from tests.utils.test_wandb_run import offline_points


class Steps(TrainerBase):
    """Loss 100 + iteration, in a first attempt; from `resumed` on the same of the second attempt, told by a fraction."""

    def __init__(self, dies_at: int | None = None, fraction: float = 0.0) -> None:
        super().__init__()
        self.dies_at, self.fraction = dies_at, fraction

    def run_step(self) -> None:
        if self.iter == self.dies_at:
            raise KeyboardInterrupt
        self.storage.put_scalar("loss", 100 + self.iter + self.fraction, smoothing_hint=False)


def run(folder: Path, start: int, dies_at: int | None = None, *, fraction: float = 0.0, **wandb: str) -> None:
    settings = {"output_dir": str(folder), "max_iter": 10, "log_period": 1, "wandb": wandb}
    trainer = Steps(dies_at, fraction)
    trainer.register_hooks([Tracking(OmegaConf.create({"train": settings}))])
    if dies_at is None:
        trainer.train(start, 10)
        return
    with pytest.raises(KeyboardInterrupt):
        trainer.train(start, 10)


def test_points_of_iterations_that_are_taken_again_come_once(tmp_path: Path):
    run(tmp_path, 0, dies_at=7)
    with (tmp_path / METRICS_FILE).open("a") as stream:
        stream.write('{"iteration": 7, "lo')  # killed in the middle of a line
    run(tmp_path, 4, fraction=0.5)  # the newest checkpoint was that of iteration 3
    expected = [(i, 100.0 + i + (0.5 if i >= 4 else 0)) for i in range(10)]
    lines = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert [(line["iteration"], line["loss"]) for line in lines] == expected
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == expected


def test_wandb_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb", reason="wandb is an extra: pip install wandb")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run(tmp_path, 0, dies_at=7, project="p")
    run(tmp_path, 4, project="p")
    points = offline_points(tmp_path)
    assert [step for _, step, _ in points] == list(range(10))
    assert [loss for _, _, loss in points] == [100.0 + step for step in range(10)]
    assert len({name for name, _, _ in points}) == 1
