"""A run's checkpoints: saved whole, resumed completely, started from any published file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eva02_det.checkpoint.checkpointer import DetectorCheckpointer
from eva02_det.checkpoint.io import read_file
from eva02_det.checkpoint.load import load_weights
from eva02_det.utils.errors import UserError
from tests.checkpoint.small import as_released, assert_same, small_detector, snapshot


class Kept:
    """Something with a state: the average of a model, or a trainer."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def ema_of(model: nn.Module) -> Kept:
    return Kept({name: weight.detach().clone() for name, weight in model.named_parameters()})


def test_saving_and_resuming_gives_the_same_weights_and_points_at_the_newest(tmp_path: Path) -> None:
    model, other = small_detector(), small_detector()
    checkpointer = DetectorCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)
    checkpointer.save("model_0000002", iteration=2)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
    rest = DetectorCheckpointer(other, str(tmp_path)).resume_or_load("", resume=True)
    assert rest == {"iteration": 2}
    assert_same(other, snapshot(model))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth", "model_0000002.pth"]


def test_the_average_lies_in_the_file_as_in_the_authors_and_comes_back_with_the_run(tmp_path: Path) -> None:
    model, average = small_detector(), small_detector()
    trainer = Kept({"iteration": 7})
    DetectorCheckpointer(model, str(tmp_path), trainer=trainer, ema_state=ema_of(average)).save("last", iteration=7)
    content = read_file(tmp_path / "last.pth")
    assert content.keys() == {"model", "trainer", "ema_state", "iteration"}
    assert content["ema_state"].keys() == dict(average.named_parameters()).keys()

    resumed, ema, other_trainer = small_detector(), Kept({}), Kept({})
    DetectorCheckpointer(resumed, str(tmp_path), trainer=other_trainer, ema_state=ema).resume_or_load("", resume=True)
    assert_same(resumed, snapshot(model))
    assert other_trainer.state == {"iteration": 7}
    torch.testing.assert_close(ema.state, ema_of(average).state, rtol=0, atol=0)

    evaluated = small_detector()
    load_weights(evaluated, tmp_path / "last.pth", which="ema")
    assert_same(evaluated, snapshot(average))


def test_a_run_that_averages_does_not_resume_from_a_checkpoint_without_an_average(tmp_path: Path) -> None:
    DetectorCheckpointer(small_detector(), str(tmp_path), trainer=Kept({})).save("last")
    checkpointer = DetectorCheckpointer(small_detector(), str(tmp_path), trainer=Kept({}), ema_state=Kept({}))
    with pytest.raises(UserError, match=r"last\.pth holds no ema_state, so the run cannot go on from it"):
        checkpointer.resume_or_load("", resume=True)


def test_a_start_from_weights_takes_neither_iteration_nor_what_was_saved_beside_them(tmp_path: Path) -> None:
    source, model = small_detector(), small_detector()
    released = {"model": as_released(source), "ema_state": ema_of(source).state, "trainer": {"iteration": 9}, "iteration": 9}
    torch.save(released, tmp_path / "released.pth")
    trainer, ema = Kept({"iteration": 0}), Kept({})
    checkpointer = DetectorCheckpointer(model, str(tmp_path / "run"), trainer=trainer, ema_state=ema)
    checkpointer.resume_or_load(str(tmp_path / "released.pth"), resume=True)  # nothing to resume yet
    assert_same(model, snapshot(source))
    assert trainer.state == {"iteration": 0}
    assert ema.state == {}


def test_what_may_start_anew_from_other_weights_must_be_there_when_a_run_resumes(tmp_path: Path) -> None:
    torch.save({"model": small_detector(classes=9).state_dict()}, tmp_path / "start.pth")
    model = small_detector(classes=5)
    checkpointer = DetectorCheckpointer(model, str(tmp_path / "run"), new_weights=(r"cls_score", r"mask_head\.predictor"))
    checkpointer.resume_or_load(str(tmp_path / "start.pth"), resume=True)
    checkpointer.save("last")
    content = read_file(tmp_path / "run" / "last.pth")
    weights = {key: value.clone() for key, value in content["model"].items() if "cls_score" not in key}
    torch.save({"model": weights}, tmp_path / "run" / "last.pth")
    with pytest.raises(UserError, match=r"6 not in the file .*cls_score"):
        checkpointer.resume_or_load("", resume=True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda w: w.pop("proposal_generator.rpn_head.anchor_deltas.bias"), r"anchor_deltas\.bias \[12\]"),
        (lambda w: w.update({"backbone.net.pos_embeds": w.pop("backbone.net.pos_embed")}), r"pos_embeds \[1, 197, 32\]"),
        (
            lambda w: w.update({"backbone.net.pos_embed": torch.zeros(1, 9, 32)}),
            r"pos_embed \[1, 9, 32\] instead of \[1, 197, 32\]",
        ),
    ],
)
def test_a_detector_file_that_does_not_fit_is_an_error_that_names_the_key_and_loads_nothing(
    tmp_path: Path, change, named: str
) -> None:
    model, weights = small_detector(), dict(small_detector().state_dict())
    before = snapshot(model)
    change(weights)
    torch.save({"model": weights}, tmp_path / "file.pth")
    with pytest.raises(UserError, match=named):
        DetectorCheckpointer(model).load(str(tmp_path / "file.pth"))
    assert_same(model, before)


def test_averaged_weights_and_folders_load_through_the_checkpointer_too(tmp_path: Path) -> None:
    average, model = small_detector(), small_detector()
    torch.save({"model": small_detector().state_dict(), "ema_state": ema_of(average).state}, tmp_path / "x.pth")
    DetectorCheckpointer(model, which="ema").load(str(tmp_path / "x.pth"))
    assert_same(model, snapshot(average))


def test_an_interrupted_save_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    checkpointer = DetectorCheckpointer(small_detector(), str(tmp_path))
    checkpointer.save("last")
    whole = (tmp_path / "last.pth").read_bytes()
    with pytest.raises(AttributeError):
        checkpointer.save("last", broken=lambda: None)  # cannot be pickled: fails in the middle of the file
    assert (tmp_path / "last.pth").read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pth", "last_checkpoint"]
