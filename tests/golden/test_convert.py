"""Patch 14 -> 16, and which entries of a detector a pre-trained backbone fills."""

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from torch import Tensor, nn

from configs.common.models import HeadSizes, cascade_mask_rcnn
from eva02_det.checkpoint.convert import convert_checkpoint
from eva02_det.checkpoint.io import read_file
from eva02_det.checkpoint.load import load_weights
from eva02_det.modeling.vit import TrV
from tests.golden.cases import GoldenCase, golden_cases

CASES = golden_cases("convert")
RESIZING = [case for case in CASES if case.values[0] is None or case.values[0].tensors]
LOADING = [case for case in CASES if case.values[0] is None or not case.values[0].tensors]


@pytest.mark.parametrize("case", RESIZING)
def test_a_converted_file_holds_the_reference_values(case: GoldenCase, tmp_path) -> None:
    weights = {key[3:]: case.tensor(key) for key in case.tensors if key.startswith("in.")}
    torch.save({"module": weights}, tmp_path / "p14.pt")
    convert_checkpoint(tmp_path / "p14.pt", tmp_path / "p14to16.pt")
    found = read_file(tmp_path / "p14to16.pt")["model"]
    assert found.keys() == weights.keys()
    tolerance = case.tolerance
    for key, value in found.items():
        expected = case.tensor(f"out.{key}") if f"out.{key}" in case.tensors else weights[key]
        short = "pos_embed" if "pos_embed" in key else "kernel"
        atol = tolerance.get("atol", tolerance.get(f"{short}_atol", 0))
        torch.testing.assert_close(value, expected, atol=atol, rtol=tolerance.get("rtol", 0))  # types too
    for key in case.spec.get("unchanged_keys", ()):
        if key in found:
            assert torch.equal(found[key], weights[key])


def described_detector(config: dict, mapping: dict) -> tuple[nn.Module, int]:
    """The case's detector and the channels of its attention heads, read off the keys and the shapes that did not fit."""
    conflicts = mapping["shape_conflicts"]
    tables = {key: shapes for key, shapes in conflicts.items() if key.endswith("attn.rope.freqs_cos")}
    head_dim = next(iter(tables.values()))[0][1]
    tokens = (config["img_size"] // 16) ** 2
    net = L(TrV)(
        embed_dim=config["embed_dim"],
        depth=config["depth"],
        num_heads=config["embed_dim"] // head_dim,
        window_size=config["window_size"],
        global_block_indexes=[int(key.split(".")[3]) for key, shapes in tables.items() if shapes[0][0] == tokens],
    )
    heads = HeadSizes(layers(mapping, "roi_heads.box_head.0.conv"), 24, layers(mapping, "roi_heads.mask_head.mask_fcn"))
    channels = conflicts["backbone.simfp_4.0.norm.weight"][0][0]
    tree = cascade_mask_rcnn(net, num_classes=5, image_size=config["img_size"], channels=channels, heads=heads)
    return instantiate(tree), head_dim


def layers(mapping: dict, prefix: str) -> int:
    """How many convolutions have names that begin so."""
    return sum(key.startswith(prefix) and key.endswith(".weight") and ".norm." not in key for key in mapping["source"])


def rotary_table(key: str, channels: int) -> Tensor:
    """Of a 16 x 16 grid, computed the long way: every token, every channel."""
    function = np.cos if key.endswith("cos") else np.sin
    half = channels // 2
    table = np.empty((16, 16, channels))
    for row in range(16):
        for col in range(16):
            for channel in range(channels):
                place = row if channel < half else col
                table[row, col, channel] = function(place * 10000.0 ** (-(channel % half // 2 * 2) / half))
    return torch.from_numpy(table.reshape(256, channels)).float()


def pretrained_file(mapping: dict, model: nn.Module, width: int, head_dim: int) -> dict[str, Tensor]:
    """Random weights under all keys that the case says the file has."""
    own = model.state_dict()
    shapes = {
        "cls_token": (1, 1, width),
        "mask_token": (1, 1, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "lm_head.weight": (1024, width),
        "lm_head.bias": (1024,),
    }
    shapes |= {source: tuple(own[key].shape) for key, source in mapping["source"].items() if source and ".freqs_" not in source}
    tables = {
        source for source in [*mapping["source"].values(), *mapping["unused_checkpoint_keys"]] if source and ".freqs_" in source
    }
    return {key: torch.randn(shape) for key, shape in shapes.items()} | {key: rotary_table(key, head_dim) for key in tables}


@pytest.mark.parametrize("case", LOADING)
def test_the_file_fills_and_leaves_what_it_does_in_the_reference_rotary_tables_aside(case: GoldenCase, tmp_path) -> None:
    mapping = case.json("mapping.json")
    expected = {key: source for key, source in mapping["source"].items() if ".freqs_" not in key}
    model, head_dim = described_detector(case.config, mapping)
    weights = pretrained_file(mapping, model, case.config["embed_dim"], head_dim)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save({"model": weights}, tmp_path / "p14to16.pt")
    account = load_weights(model, tmp_path / "p14to16.pt")

    found = {name: key for key, names in account.renamed.items() for name in names} | dict.fromkeys(account.new)
    assert found == expected
    left = {key for key in mapping["unused_checkpoint_keys"] if ".freqs_" not in key}
    assert {key for key in account.dropped if ".freqs_" not in key} == left
    assert {key for key in account.dropped if ".freqs_" in key} == {key for key in weights if ".freqs_" in key}
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key] if expected[key] is None else weights[expected[key]]), key
