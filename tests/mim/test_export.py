"""What a pre-trained student is exported to, others load and compute the same with."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.eva import Eva
from torch import nn

from eva02_det.checkpoint.load import load_weights
from eva02_det.checkpoint.resize import resize_patch_kernel, resize_position_table
from eva02_det.utils.errors import UserError
from eva02_mim.export import LAYOUTS, export_student, load_student
from eva02_mim.hidden import HiddenTokens
from eva02_mim.sizes import student_of_size
from eva02_mim.student import MimStudent
from tests.checkpoint.small import SHAPE, randomise, small_detector

WIDTH, DEPTH, HEADS = SHAPE["embed_dim"], SHAPE["depth"], SHAPE["num_heads"]
TARGETS = {"p14to16": "out.pt", "folder": "out", "timm": "out.safetensors"}
FLAVOURS = [pytest.param(True, id="sub-LN"), pytest.param(False, id="packed")]


def small_student(**options: Any) -> nn.Module:
    return randomise(MimStudent(WIDTH, DEPTH, HEADS, target_dim=8, **options)).eval()


def saved(student: nn.Module, folder: Path, name: str = "checkpoint_0000001.pt") -> Path:
    """As a run saves it, with other things beside the weights."""
    torch.save({"model": student.state_dict(), "optimizer": {"state": {}, "param_groups": []}, "step": 1}, folder / name)
    return folder / name


def stacked(attention: nn.Module) -> torch.Tensor:
    """Query, key and value matrices on top of each other, however they are stored."""
    parts = [attention.qkv] if hasattr(attention, "qkv") else [attention.q_proj, attention.k_proj, attention.v_proj]
    return torch.cat([part.weight for part in parts])


@pytest.mark.parametrize("sub_ln", FLAVOURS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_detector_takes_every_export_and_has_the_student_s_weights(layout: str, sub_ln: bool, tmp_path: Path):
    student = small_student(sub_ln=sub_ln)
    export_student(saved(student, tmp_path), tmp_path / TARGETS[layout], layout=layout, num_heads=HEADS)
    detector = small_detector(sub_ln=sub_ln)
    account = load_weights(detector, tmp_path / TARGETS[layout])
    assert account.complete
    assert {name for name in detector.state_dict() if name.startswith("backbone.net.")} == set(account.filled)
    net, weights = detector.backbone.net, student.state_dict()
    assert torch.equal(net.patch_embed.proj.weight, resize_patch_kernel(weights["patch_embed.proj.weight"], 16))
    assert torch.equal(net.pos_embed, resize_position_table(weights["pos_embed"], 197))
    inner, own = net.blocks[-1].attn, student.blocks[-1].attn
    assert torch.equal(stacked(inner), stacked(own))
    assert torch.equal(net.blocks[-1].mlp.w3.weight, student.blocks[-1].mlp.w3.weight)


@pytest.mark.parametrize("options", [{}, {"sub_ln": False}, {"rope": False}])
def test_a_student_with_gelu_layers_is_refused_by_a_detector_in_one_sentence_whatever_its_layout(
    options: dict[str, bool], tmp_path: Path
):
    file = saved(small_student(feed_forward="gelu", **options), tmp_path)
    for layout in ("folder", "timm"):
        export_student(file, tmp_path / TARGETS[layout], layout=layout, num_heads=HEADS)
    for source in (file, tmp_path / TARGETS["folder"], tmp_path / TARGETS["timm"]):
        sentence = r"has GELU feed-forward layers \(blocks\.0\.mlp\.fc1\.weight\) and this model has SwiGLU.*feed_forward=swiglu"
        with pytest.raises(UserError, match=sentence):
            load_weights(small_detector(sub_ln=options.get("sub_ln", True)), source)


def test_the_p14to16_layout_nests_all_released_keys_under_model(tmp_path: Path):
    student = small_student()
    export_student(saved(student, tmp_path), tmp_path / "out.pt", layout="p14to16")
    content = torch.load(tmp_path / "out.pt", weights_only=True)
    assert list(content) == ["model"]
    assert content["model"].keys() == student.state_dict().keys()
    changed = {"patch_embed.proj.weight": (WIDTH, 3, 16, 16), "pos_embed": (1, 197, WIDTH)}
    for name, tensor in student.state_dict().items():
        if name in changed:
            assert tuple(content["model"][name].shape) == changed[name]
        else:
            assert torch.equal(content["model"][name], tensor)


@pytest.mark.parametrize("sub_ln", FLAVOURS)
@pytest.mark.parametrize("pooled", [True, False], ids=["mean", "class token"])
def test_timm_s_model_computes_the_same_features(pooled: bool, sub_ln: bool, tmp_path: Path):
    student = small_student(sub_ln=sub_ln)
    export_student(saved(student, tmp_path), tmp_path / "out.pt", layout="timm", pooled=pooled)
    theirs = Eva(
        img_size=224,
        patch_size=14,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=8 / 3,
        qkv_fused=not sub_ln,
        swiglu_mlp=True,
        scale_mlp=sub_ln,
        use_rot_pos_emb=True,
        ref_feat_shape=(16, 16),
        num_classes=0,
        global_pool="avg" if pooled else "token",
    ).eval()
    theirs.load_state_dict(torch.load(tmp_path / "out.pt", weights_only=True)["model"])
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        tokens = student.run_blocks(student.embed(images))
        expected = student.norm(tokens[:, 1:].mean(1)) if pooled else student.norm(tokens)[:, 0]
        torch.testing.assert_close(theirs(images), expected, rtol=1e-4, atol=1e-5)


def test_timm_builds_its_tiny_model_from_the_exported_file(tmp_path: Path):
    source = saved(student_of_size("Ti"), tmp_path)
    export_student(source, tmp_path / "ti.safetensors", layout="timm")
    model = timm.create_model("eva02_tiny_patch14_224", num_classes=0, checkpoint_path=str(tmp_path / "ti.safetensors"))
    assert torch.equal(model.blocks[3].mlp.fc1.weight, torch.load(source)["model"]["blocks.3.mlp.w12.weight"])


@pytest.mark.parametrize("options", [{}, {"sub_ln": False}, {"feed_forward": "gelu", "rope": False}, {"image_size": 56}])
def test_the_student_of_a_folder_predicts_what_the_trained_one_does(options: dict[str, Any], tmp_path: Path):
    student = small_student(**options)
    source = saved(student, tmp_path)
    (tmp_path / "config.yaml").write_text(json.dumps({"student": {"num_heads": HEADS, **options}}))
    export_student(source, tmp_path / "out")
    again = load_student(tmp_path / "out").eval()
    images, index = torch.randn(2, 3, student.image_size, student.image_size), torch.tensor([[1, 5], [0, 9]])
    with torch.no_grad():
        hidden = HiddenTokens(index, torch.ones(2, 2))
        torch.testing.assert_close(again(images, hidden), student(images, hidden), rtol=0, atol=0)
    assert json.loads((tmp_path / "out/config.json").read_text())["preprocessing"]["interpolation"] == "bicubic"


def test_a_published_size_tells_its_heads(tmp_path: Path):
    export_student(saved(student_of_size("Ti"), tmp_path), tmp_path / "ti")
    assert json.loads((tmp_path / "ti/config.json").read_text())["architecture"]["num_heads"] == 3


def test_what_cannot_be_exported_is_one_sentence(tmp_path: Path):
    student = saved(small_student(), tmp_path)
    detector = tmp_path / "detector.pth"
    torch.save({"model": small_detector().state_dict()}, detector)
    with pytest.raises(UserError, match=r"width 32 and depth 4 are of no published size; pass --num-heads"):
        export_student(student, tmp_path / "out")
    with pytest.raises(UserError, match=r"detector.pth is no student .* it has no mask_token, lm_head.weight"):
        export_student(detector, tmp_path / "out")
    gelu = saved(small_student(feed_forward="gelu"), tmp_path, "gelu.pt")
    with pytest.raises(UserError, match=r"gelu.pt has GELU layers, which no detector"):
        export_student(gelu, tmp_path / "out.pt", layout="p14to16")
    with pytest.raises(UserError, match=r"layout folder writes a folder and .*out.pt is the name of a file"):
        export_student(student, tmp_path / "out.pt")
    with pytest.raises(UserError, match=r"layout timm writes a file and .*out has no ending"):
        export_student(student, tmp_path / "out", layout="timm")
    with pytest.raises(UserError, match=r"config.json is missing or damaged"):
        load_student(tmp_path)
    (tmp_path / "config.json").write_text('{"format": 1, "classes": []}')
    with pytest.raises(UserError, match=r"is not of the format 'eva02_mim student 1'"):
        load_student(tmp_path)
