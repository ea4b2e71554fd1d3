"""Names of other projects: recognised by their keys, and proved by the numbers that both networks compute."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eva02_det.checkpoint.io import write_weights
from eva02_det.checkpoint.layouts import Entry, layout_of, repacked
from eva02_det.checkpoint.load import load_weights
from eva02_det.layers.patch_embed import Positions
from eva02_det.modeling.sizes import TRV_SIZES
from eva02_det.modeling.vit import TrV
from eva02_det.utils.errors import UserError
from tests.checkpoint.small import randomise, small_backbone

NAMES = {"Ti": "tiny", "S": "small", "B": "base", "L": "large"}


def timm_network(size: str, depth: int, **options: Any) -> nn.Module:
    """timm's own model of that size, cut to `depth` blocks, random throughout; without the class token we do not have."""
    timm = pytest.importorskip("timm")
    return randomise(
        timm.create_model(f"eva02_{NAMES[size]}_patch14_224", depth=depth, class_token=False, num_classes=0, **options)
    ).eval()


@pytest.mark.parametrize("size", ["Ti", "S", "B", "L"])
def test_a_timm_file_gives_the_features_of_timms_network(size: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm_network(size, depth=2)
    write_weights(tmp_path / "model.safetensors", theirs.state_dict())
    shape = TRV_SIZES[size]
    ours = TrV(
        shape.embed_dim,
        2,
        shape.num_heads,
        sub_ln=shape.sub_ln,
        patch_size=14,
        global_block_indexes=(0, 1),
        positions=Positions(16, cls_token=False),
    ).eval()
    account = load_weights(ours, tmp_path)
    assert set(account.filled) == ours.state_dict().keys()
    assert account.layout == "EVA-02 backbone with timm's names"
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = theirs.forward_intermediates(images, indices=1, norm=False, intermediates_only=True)[0]
        found = ours(images)["last_feat"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def packed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the small sizes of pre-training store them."""
    result = dict(weights)
    for index in range(4):
        block = f"blocks.{index}"
        result[f"{block}.attn.qkv.weight"] = torch.cat([result.pop(f"{block}.attn.{part}_proj.weight") for part in "qkv"])
        for kind in ("weight", "bias"):
            result[f"{block}.mlp.w12.{kind}"] = torch.cat([result.pop(f"{block}.mlp.w{part}.{kind}") for part in (1, 2)])
    return result


class PackedStudent(nn.Module):
    """Keys of a student of size Ti or S: packed matrices under a model that wants them so."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for key, value in weights.items():
            module = self
            *path, last = key.split(".")
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_parameter(last, nn.Parameter(torch.zeros_like(value)))


def test_packed_matrices_are_split_for_a_detector_and_joined_for_a_student(tmp_path: Path) -> None:
    split = {key: value.clone() for key, value in small_backbone(sub_ln=False).state_dict().items()}
    joined = packed(split)
    assert len(joined) == len(split) - 4 * 4
    torch.save({"module": joined}, tmp_path / "packed.pt")
    torch.save({"model": split}, tmp_path / "split.pt")

    detector = small_backbone(sub_ln=False)
    account = load_weights(detector, tmp_path / "packed.pt")
    for key, value in detector.state_dict().items():
        assert torch.equal(value, split[key]), key
    names = tuple(f"blocks.3.attn.{part}_proj.weight" for part in "qkv")
    assert account.renamed["blocks.3.attn.qkv.weight"] == names

    student = PackedStudent(joined)
    account = load_weights(student, tmp_path / "split.pt")
    for key, value in student.state_dict().items():
        assert torch.equal(value, joined[key]), key
    assert account.renamed["blocks.3.mlp.w2.bias"] == ("blocks.3.mlp.w12.bias",)
    load_weights(student, tmp_path / "packed.pt")


def test_splitting_copies_nothing() -> None:
    matrix = torch.randn(9, 2)
    wanted = {f"blocks.0.attn.{part}_proj.weight": torch.empty(3, 2) for part in "qkv"}
    result = repacked({"blocks.0.attn.qkv.weight": Entry(matrix, ("x",))}, wanted)
    assert {entry.tensor.untyped_storage().data_ptr() for entry in result.values()} == {matrix.untyped_storage().data_ptr()}


@pytest.mark.parametrize("shape", [(8, 2), (9, 3), (9,), (), (9, 2, 1)])
def test_a_packed_matrix_of_the_wrong_shape_is_left_as_it_is_to_be_reported(shape: tuple[int, ...]) -> None:
    wanted = {f"blocks.0.attn.{part}_proj.weight": torch.empty(3, 2) for part in "qkv"}
    assert list(repacked({"blocks.0.attn.qkv.weight": Entry(torch.zeros(shape), ("x",))}, wanted)) == ["blocks.0.attn.qkv.weight"]


def test_separate_matrices_that_do_not_stack_to_the_wanted_shape_are_left_to_be_reported() -> None:
    wanted = {"blocks.0.mlp.w12.weight": torch.empty(6, 2)}
    for one, other in (((3, 2), (3, 3)), ((3, 2), (2, 2)), ((3, 2), ())):
        given = {
            "blocks.0.mlp.w1.weight": Entry(torch.zeros(one), ("x",)),
            "blocks.0.mlp.w2.weight": Entry(torch.zeros(other), ("y",)),
        }
        assert repacked(given, wanted) == given
    assert list(repacked({"blocks.0.mlp.w1.weight": Entry(torch.zeros(6, 2), ("x",))}, wanted)) == ["blocks.0.mlp.w1.weight"]


def test_two_tensors_for_one_name_are_an_error_and_not_the_loss_of_one(tmp_path: Path) -> None:
    weights = dict(small_backbone().state_dict())
    weights["blocks.1.mlp.fc1_g.weight"] = weights["blocks.1.mlp.w1.weight"]  # as timm calls it
    weights["blocks.0.mlp.fc1_g.weight"] = weights.pop("blocks.0.mlp.w1.weight")
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"1 not in the model \(blocks\.1\.mlp\.fc1_g\.weight \[85, 32\]\)"):
        load_weights(small_backbone(), tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (("mlp.w1.weight",), "EVA-02 backbone"),
        (("mlp.w12.weight", "attn.q_bias"), "EVA-02 backbone"),
        (("mlp.fc1_g.weight",), "EVA-02 backbone with timm's names"),
        (("mlp.fc1.weight", "attn.q_bias"), "EVA-02 backbone with timm's names"),
        (("mlp.fc1.weight", "attn.qkv.bias"), "plain ViT backbone"),
        ((), "backbone"),
    ],
)
def test_a_backbone_is_recognised_by_keys_that_only_its_layout_has(keys: tuple[str, ...], name: str) -> None:
    names = ("patch_embed.proj.weight", *(f"blocks.0.{key}" for key in keys))
    for prefix in ("", "backbone.net."):
        layout = layout_of([prefix + key for key in names])
        assert (layout.name, layout.backbone, layout.prefix) == (name, True, prefix)


def test_a_backbone_with_anything_else_beside_it_is_a_detector() -> None:
    assert not layout_of(["backbone.net.patch_embed.proj.weight", "roi_heads.box_head.0.fc1.bias"]).backbone
    assert not layout_of(["anything"]).backbone
