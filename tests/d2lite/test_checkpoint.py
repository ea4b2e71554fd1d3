"""DetectionCheckpointer: what it writes, reads, refuses and reports."""

import logging
import pickle
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from eva02_det._provider import active

d2lite_only = pytest.mark.skipif(active() == "official", reason="the official one reads these files")


class Detector(nn.Module):
    """A layer, and constants as detection models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 3)
        self.register_buffer("pixel_mean", torch.zeros(3))


class Code:
    """Something that is not a tensor."""


def test_a_model_and_its_optimizer_come_back_equal(tmp_path):
    model, other = Detector(), Detector()
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.1) for m in (model, other)]
    model.fc(torch.ones(1, 2)).sum().backward()
    optimizers[0].step()
    DetectionCheckpointer(model, str(tmp_path), optimizer=optimizers[0]).save("last", iteration=7)
    rest = DetectionCheckpointer(other, optimizer=optimizers[1]).load(str(tmp_path / "last.pth"))
    assert rest["iteration"] == 7
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert optimizers[1].state_dict()["state"].keys() == optimizers[0].state_dict()["state"].keys()


def test_a_bare_state_dict_is_a_checkpoint_too(tmp_path):
    model, other = Detector(), Detector()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    DetectionCheckpointer(other).load(str(tmp_path / "w.pth"))
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_prefixes_of_data_parallel_models_are_taken_off(tmp_path):
    model, other = Detector(), Detector()
    torch.save({"model": {f"module.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "w.pth")
    DetectionCheckpointer(other).load(str(tmp_path / "w.pth"))
    torch.testing.assert_close(other.fc.weight, model.fc.weight, rtol=0, atol=0)


def test_missing_weights_are_reported_and_missing_constants_are_not(tmp_path, caplog):
    torch.save({"fc.weight": torch.zeros(3, 2), "rpn.anchor_generator.cell_anchors.0": torch.zeros(1)}, tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING):
        DetectionCheckpointer(Detector()).load(str(tmp_path / "w.pth"))
    assert "fc.bias" in caplog.text
    assert "pixel_mean" not in caplog.text
    assert "cell_anchors" not in caplog.text


def test_resuming_takes_the_last_file_and_otherwise_only_the_model_is_loaded(tmp_path):
    model = Detector()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    checkpointer = DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer)
    checkpointer.save("first", iteration=1)
    checkpointer.save("second", iteration=2)
    optimizer.param_groups[0]["lr"] = 0.1
    assert "optimizer" in checkpointer.resume_or_load(str(tmp_path / "first.pth"), resume=False)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert checkpointer.resume_or_load(str(tmp_path / "first.pth"), resume=True)["iteration"] == 2
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_nothing_is_written_where_saving_is_off(tmp_path):
    DetectionCheckpointer(Detector(), str(tmp_path), save_to_disk=False).save("last")
    assert not list(tmp_path.iterdir())


def test_no_path_means_no_loading():
    assert DetectionCheckpointer(Detector()).load("") == {}


def test_a_file_that_holds_code_is_refused(tmp_path):
    torch.save({"model": {}, "extra": Code()}, tmp_path / "w.pth")
    with pytest.raises((ValueError, pickle.UnpicklingError), match=r"Code|tensors"):
        DetectionCheckpointer(Detector()).load(str(tmp_path / "w.pth"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises((AssertionError, OSError), match="absent"):
        DetectionCheckpointer(Detector()).load(str(tmp_path / "absent.pth"))


@d2lite_only
@pytest.mark.parametrize(
    ("name", "content"),
    [("zoo.pkl", pickle.dumps({})), ("list.pth", pickle.dumps([1], protocol=2)), ("text.pth", b"404"), ("empty.pth", b"")],
)
def test_files_that_are_no_checkpoints_are_refused_by_name(tmp_path, name, content):
    Path(tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        DetectionCheckpointer(Detector()).load(str(tmp_path / name))
