"""Every key of a file and of a model is accounted for."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from eva02_det.checkpoint.account import Account
from eva02_det.checkpoint.checkpointer import DetectorCheckpointer
from eva02_det.checkpoint.io import read_file, state_dict_of
from eva02_det.checkpoint.remap import Fit, Target
from eva02_det.checkpoint.rotary import stored_table
from eva02_det.utils.errors import UserError


class Detector(nn.Module):
    """The names of a detector, in a few numbers."""

    def __init__(self, width: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.net = nn.Module()
        self.backbone.net.patch_embed = nn.Module()
        self.backbone.net.patch_embed.proj = nn.Linear(2, width)
        self.head = nn.Linear(width, classes)


def backbone_file(width: int = 3) -> dict[str, torch.Tensor]:
    return {
        "patch_embed.proj.weight": torch.randn(width, 2),
        "patch_embed.proj.bias": torch.randn(width),
        "cls_token": torch.zeros(1, 1, width),
        "norm.weight": torch.ones(width),
        "rope.freqs_cos": stored_table(16, 64, "cos").view(16, 16, 64),
        "blocks.0.attn.rope.freqs_sin": stored_table(16, 64, "sin"),
    }


def load(model: nn.Module, content: object, folder: Path, **options: object) -> None:
    torch.save(content, folder / "file.pth")
    DetectorCheckpointer(model, **options).load(str(folder / "file.pth"))


@pytest.mark.parametrize("nesting", ["model", "module", None])
def test_a_bare_backbone_fills_the_backbone_of_a_detector_in_every_published_nesting(tmp_path: Path, nesting: str | None):
    model, weights = Detector(), backbone_file()
    head = model.head.weight.detach().clone()
    load(model, {nesting: weights} if nesting else weights, tmp_path)
    torch.testing.assert_close(model.backbone.net.patch_embed.proj.weight.data, weights["patch_embed.proj.weight"])
    torch.testing.assert_close(model.head.weight.data, head)


def account_of(weights: dict[str, torch.Tensor], model: nn.Module) -> Account:
    return Fit(weights, Target.of(model)).account


def test_each_key_is_used_dropped_unexpected_mismatched_or_damaged_and_never_lost():
    weights = {**backbone_file(), "patch_embed.proj.bias": torch.zeros(9), "strange": torch.zeros(1)}
    account = account_of(weights, Detector())
    fates = [*account.used, *account.dropped, *account.unexpected, *account.mismatched, *account.damaged]
    assert sorted(fates) == sorted(weights)
    assert account.unexpected == {"strange": (1,)}
    assert account.mismatched == {"patch_embed.proj.bias": ((9,), (3,))}
    assert account.absent == {}
    assert sorted(account.new) == ["head.bias", "head.weight"]


def test_final_norm_and_tokens_are_refused_in_a_detector_file():
    weights = {**Detector().state_dict(), "norm.weight": torch.ones(3)}
    assert account_of(weights, Detector()).unexpected == {"norm.weight": (3,)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda w: w.pop("head.bias"), "head.bias"),
        (lambda w: w.update({"head.weights": w.pop("head.weight")}), "head.weights"),
        (lambda w: w.update({"head.weight": torch.zeros(9, 3)}), r"head.weight \[9, 3\] instead of \[5, 3\]"),
    ],
)
def test_a_detector_file_that_does_not_fit_is_an_error_that_names_the_key_and_loads_nothing(tmp_path: Path, change, named: str):
    model, weights = Detector(), Detector().state_dict()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    change(weights)
    with pytest.raises(UserError, match=named):
        load(model, {"model": weights}, tmp_path)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_weights_named_as_new_may_differ(tmp_path: Path):
    model, weights = Detector(classes=7), Detector(classes=5).state_dict()
    load(model, {"model": weights}, tmp_path, new_weights=(r"^head\.",))
    torch.testing.assert_close(model.backbone.net.patch_embed.proj.bias.data, weights["backbone.net.patch_embed.proj.bias"])


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path):
    path = tmp_path / "evil.pth"
    torch.save({"model": Detector()}, path)
    with pytest.raises(UserError, match="unpickling runs code"):
        read_file(path)


@pytest.mark.parametrize("keep", [0, 10, 500])
def test_a_truncated_file_is_one_sentence(tmp_path: Path, keep: int):
    torch.save({"model": Detector().state_dict()}, tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:keep])
    with pytest.raises(UserError, match=r"half.pth"):
        read_file(tmp_path / "half.pth")


def test_a_file_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "x.pth").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UserError, match=r"x.pth"):
        read_file(tmp_path / "x.pth")
    with pytest.raises(UserError, match="no weights"):
        state_dict_of({"epoch": 3}, "y.pth")


def test_saving_and_loading_gives_the_same_weights_and_points_at_the_newest(tmp_path: Path):
    model, other = Detector(), Detector()
    checkpointer = DetectorCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)
    checkpointer.save("model_0000002", iteration=2)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
    rest = DetectorCheckpointer(other, str(tmp_path)).resume_or_load("", resume=True)
    assert rest["iteration"] == 2
    for key, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value, rtol=0, atol=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth", "model_0000002.pth"]
