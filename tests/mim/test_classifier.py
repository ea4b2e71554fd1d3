"""The classifier: what it computes, what learns, and what it begins from."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.eva import Eva
from torch import Tensor, nn

from eva02_det.utils.errors import UserError
from eva02_mim.beginning import begin_from
from eva02_mim.classifier import Classifier, classifier_of_size
from eva02_mim.export import export_student, timm_weights
from eva02_mim.sizes import student_of_size
from eva02_mim.student import MimStudent
from tests.checkpoint.small import randomise

SHAPE = (128, 3, 2)  # width, depth, heads
FLAVOURS = [pytest.param(True, id="sub-LN"), pytest.param(False, id="packed")]
DROPPED = {"mask_token", "lm_head.weight", "lm_head.bias", "norm.weight", "norm.bias"}
NEW = {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}


def small(num_classes: int = 10, **options: Any) -> Classifier:
    return Classifier(*SHAPE, num_classes=num_classes, **{"image_size": 56, **options})


def student(**options: Any) -> nn.Module:
    return randomise(MimStudent(*SHAPE, target_dim=8, **{"image_size": 224, **options})).eval()


def images(side: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("sub_ln", FLAVOURS)
def test_at_448_px_the_logits_are_those_of_timm_s_eva(sub_ln: bool):
    ours = randomise(small(image_size=448, sub_ln=sub_ln)).eval()
    flavour = {"qkv_fused": False, "scale_mlp": True} if sub_ln else {"qkv_fused": True}
    theirs = Eva(
        img_size=448,
        patch_size=14,
        embed_dim=128,
        depth=3,
        num_heads=2,
        mlp_ratio=8 / 3,
        swiglu_mlp=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(16, 16),
        num_classes=10,
        **flavour,
    ).eval()
    theirs.load_state_dict(timm_weights(ours.state_dict(), pooled=False))
    shown = images(448)
    with torch.no_grad():
        torch.testing.assert_close(ours(shown), theirs(shown), rtol=0, atol=1e-6)


def test_timm_s_own_loader_takes_a_fine_tuned_ti_under_module_and_computes_the_same(tmp_path: Path):
    ours = randomise(classifier_of_size("Ti", image_size=336)).eval()
    torch.save({"module": ours.state_dict()}, tmp_path / "ti.pt")
    overlay = {"file": str(tmp_path / "ti.pt"), "hf_hub_id": None}
    theirs = timm.create_model("eva02_tiny_patch14_336", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    shown = images(336, count=1)
    with torch.no_grad():
        torch.testing.assert_close(ours(shown), theirs(shown), rtol=0, atol=1e-5)


def test_with_use_cls_the_head_reads_the_class_token_behind_the_norm_of_pre_training():
    model = randomise(small(use_cls=True)).eval()
    shown = images(56)
    with torch.no_grad():
        torch.testing.assert_close(model(shown), model.head(model.encode(shown)[:, 0]))
    assert "norm.weight" in model.state_dict()
    assert "fc_norm.weight" not in model.state_dict()


@pytest.mark.parametrize("size", ["Ti", "S", "B", "L"])
def test_the_keys_are_those_of_a_released_classifier(size: str):
    with torch.device("meta"):
        keys = classifier_of_size(size).state_dict().keys()
        pretrained = student_of_size(size).state_dict().keys()
    assert keys == (pretrained - DROPPED) | NEW


def test_the_patch_projection_learns_only_where_that_is_asked_for():
    for learns in (False, True):
        model = small(train_patch_embed=learns)
        randomise(model.head)
        model(images(56)).square().sum().backward()
        silent = {name for name, parameter in model.named_parameters() if parameter.grad is None}
        assert silent == (set() if learns else {"patch_embed.proj.weight", "patch_embed.proj.bias"})


def test_the_head_begins_with_tiny_weights_and_the_norm_as_identity():
    model = small(num_classes=1000)
    assert float(model.head.weight.detach().std()) == pytest.approx(0.0108 * 0.001, rel=0.02)
    assert float(model.head.weight.detach().abs().max()) <= 0.02 * 0.001
    assert not bool(model.head.bias.any())
    assert bool((model.fc_norm.weight == 1).all())


def test_a_classifier_begins_from_a_student_with_norm_and_head_of_its_own(tmp_path: Path):
    pretrained = student()
    torch.save({"module": {name: tensor.half() for name, tensor in pretrained.state_dict().items()}}, tmp_path / "p14.pt")
    model = small(image_size=448)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items() if name in NEW}
    account = begin_from(model, tmp_path / "p14.pt")
    assert account.complete
    assert set(account.dropped) == DROPPED
    assert set(account.new) == NEW
    weights = model.state_dict()
    for name, tensor in pretrained.state_dict().items():
        if name not in DROPPED | {"pos_embed"}:
            torch.testing.assert_close(weights[name], tensor.half().float(), rtol=0, atol=0)
    for name, tensor in fresh.items():
        assert torch.equal(weights[name], tensor)


def test_positions_are_stretched_in_fp32_without_antialiasing_though_the_file_is_fp16(tmp_path: Path):
    table = student().state_dict()["pos_embed"].half()
    torch.save({"module": {**student().state_dict(), "pos_embed": table}}, tmp_path / "p14.pt")
    model = small(image_size=448)
    begin_from(model, tmp_path / "p14.pt")
    grid = table[:, 1:].float().reshape(1, 16, 16, 128).permute(0, 3, 1, 2)
    wanted = F.interpolate(grid, size=(32, 32), mode="bicubic", align_corners=False, antialias=False)
    assert torch.equal(model.pos_embed[:, 1:], wanted.permute(0, 2, 3, 1).reshape(1, 1024, 128))
    assert torch.equal(model.pos_embed[:, :1], table[:, :1].float())


@pytest.mark.parametrize("layout", ["run", "folder", "timm"])
def test_every_export_of_a_student_is_a_beginning(layout: str, tmp_path: Path):
    pretrained = student(sub_ln=False)
    torch.save({"model": pretrained.state_dict(), "optimizer": {}, "step": 1}, tmp_path / "run.pt")
    target = {"run": "run.pt", "folder": "folder", "timm": "timm.safetensors"}[layout]
    if layout != "run":
        export_student(tmp_path / "run.pt", tmp_path / target, layout=layout, num_heads=2)
    model = small(image_size=224, sub_ln=False)
    account = begin_from(model, tmp_path / target)
    assert set(account.new) == NEW
    assert set(account.filled) == model.state_dict().keys() - NEW
    assert torch.equal(model.blocks[2].mlp.w12.weight, pretrained.blocks[2].mlp.w12.weight)
    assert bool((model.fc_norm.weight == 1).all())


def test_from_a_classifier_of_other_classes_the_norm_is_kept_and_the_head_new(tmp_path: Path):
    intermediate = randomise(small(num_classes=30))
    torch.save({"model": intermediate.state_dict()}, tmp_path / "in21k.pt")
    model = small(num_classes=10)
    account = begin_from(model, tmp_path / "in21k.pt")
    assert set(account.new) == {"head.weight", "head.bias"}
    assert torch.equal(model.fc_norm.weight, intermediate.fc_norm.weight)
    assert float(model.head.weight.detach().abs().max()) <= 0.02 * 0.001


def test_the_head_of_as_many_classes_is_kept_unless_they_are_others(tmp_path: Path):
    tuned = randomise(small())
    torch.save({"model": small().state_dict(), "model_ema": tuned.state_dict()}, tmp_path / "tuned.pt")
    model = small()
    assert not begin_from(model, tmp_path / "tuned.pt", which="ema").new
    assert torch.equal(model.head.weight, tuned.head.weight)
    assert set(begin_from(model, tmp_path / "tuned.pt", which="ema", new_head=True).new) == {"head.weight", "head.bias"}


def broken_file(kind: str, folder: Path) -> Path:
    weights = student().state_dict()
    if kind == "width":
        weights = MimStudent(64, 3, 1, target_dim=8).state_dict()
    elif kind == "patch":
        weights["patch_embed.proj.weight"] = torch.zeros(128, 3, 16, 16)
    elif kind == "extra":
        weights["blocks.0.attn.gate"] = torch.zeros(1)
    elif kind == "depth":
        weights = MimStudent(128, 2, 2, target_dim=8).state_dict()
    elif kind == "other":
        weights = {"backbone.conv1.weight": torch.zeros(1)}
    torch.save({"module": weights}, folder / "file.pt")
    return folder / "file.pt"


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("width", "has a width of 64 and the classifier 128; pass the config of that size"),
        ("patch", "has patches of 16 px and the classifier 14 px; pass the checkpoint as pre-trained"),
        ("extra", r"1 not in the model \(blocks.0.attn.gate \[1\]\)"),
        ("depth", r"19 not in the file \(blocks.2.norm1.weight .*; pass the config of that model, or another file"),
        ("other", "is no EVA-02 encoder, it has no pos_embed"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(kind: str, sentence: str, tmp_path: Path):
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=sentence):
        begin_from(model, broken_file(kind, tmp_path))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_evaluation_does_not_accept_a_student(tmp_path: Path):
    torch.save({"module": student().state_dict()}, tmp_path / "p14.pt")
    with pytest.raises(UserError, match="is no classifier, it has no head; fine-tune it first"):
        begin_from(small(), tmp_path / "p14.pt", new_head=False)


def test_an_image_size_that_is_no_multiple_of_the_patch_is_refused():
    with pytest.raises(UserError, match="image_size=450 px is no multiple of patch_size=14 px"):
        small(image_size=450)
