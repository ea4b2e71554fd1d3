"""Every published checkpoint layout loads with each key explained, and not with one key wrong."""

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from eva02_det.checkpoint.account import Account
from eva02_det.checkpoint.io import write_weights
from eva02_det.checkpoint.load import load_weights
from eva02_det.utils.errors import UserError
from tests.checkpoint.published import PUBLISHED, Published, constants, detector, masked_image_model

MARKS = [pytest.param(layout, id=layout.name, marks=pytest.mark.golden) for layout in PUBLISHED]
every_layout = pytest.mark.parametrize("layout", MARKS)
# the large ones hold no other names than their smaller relatives
LARGE = ("MIM L", "large", "huge", "eva02_L_coco_bsl", "eva02_L_coco_sys", "eva02_L_lvis", "O365 to LVIS")
every_naming = pytest.mark.parametrize("layout", [mark for mark in MARKS if not any(name in mark.id for name in LARGE)])


def load(layout: Published, content: dict, folder: Path, model: nn.Module | None = None) -> Account:
    torch.save(content, folder / "file.pth")
    model = layout.model() if model is None else model
    return load_weights(model, folder / "file.pth", which=layout.which, new_weights=layout.new_weights)


@every_layout
def test_every_key_of_file_and_model_is_explained_and_only_heads_are_new(layout: Published, tmp_path: Path) -> None:
    weights, model = layout.weights(), layout.model().state_dict()
    account = load(layout, layout.content(weights), tmp_path)
    assert account.complete
    assert {*account.used, *account.dropped} == weights.keys()
    assert {*account.filled, *account.new} == model.keys()
    assert not {*account.filled} & {*account.new}
    assert {key for key in model if key.startswith("backbone.net.") and "rel_pos" not in key} <= {*account.filled}
    for key in account.dropped:
        assert re.search(r"freqs_|^decoder_|token|norm\.|head\.|fed_loss_cls_weights|pixel_|cell_anchors|cls_score", key), key
        assert ".blocks." not in f".{key}" or ".freqs_" in key
    if layout.new_weights:
        assert all(re.search(r"cls_score|mask_head|fed_loss_cls_weights", key) for key in account.new)
        assert sum("bbox_pred" in key for key in account.filled) == 6


def faults(layout: Published) -> list[tuple[dict, str]]:
    """Weights with one fault each, and what must be said: a damaged, a renamed and a cut tensor."""
    weights = layout.weights()
    middle = next(key for key in weights if re.search(r"blocks\.3\.mlp\.(w1|w12|fc1|fc1_g)\.weight$", key))
    norm = next(key for key in weights if re.search(r"blocks\.1\.norm2\.bias$", key))
    spoilt = weights[norm].clone()
    spoilt[5] = float("nan")
    other = norm.replace("norm2", "norm_2")
    renamed = {other if key == norm else key: value for key, value in weights.items()}
    shorter = weights[middle][:-1]
    return [
        ({**weights, norm: spoilt}, f"1 damaged ({norm} holds NaN"),
        (renamed, f"1 not in the model ({other} {list(spoilt.shape)})"),
        ({**weights, middle: shorter}, f"({middle} {list(shorter.shape)}"),
    ]


@every_naming
def test_one_wrong_key_is_an_error_that_names_it(layout: Published, tmp_path: Path) -> None:
    for weights, message in faults(layout):
        with pytest.raises(UserError, match=re.escape(message)):
            load(layout, layout.content(weights), tmp_path)


@pytest.mark.golden
@pytest.mark.parametrize("name", ["MIM B p14, module", "timm eva02_base_patch14_224", "eva02_B_coco_bsl"])
def test_every_tensor_of_a_base_detector_receives_the_value_of_its_key(name: str, tmp_path: Path) -> None:
    layout = next(layout for layout in PUBLISHED if layout.name == name)
    weights = layout.weights()
    model = copy.deepcopy(layout.model()).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(-1)
    account = load(layout, layout.content(weights), tmp_path, model)
    sources = {name: key for key in account.used for name in account.renamed.get(key, (key,))}
    for key, tensor in model.state_dict().items():
        expected = weights[sources[key]].flatten()[0].item() if key in sources else -1
        low, high = (extreme.item() for extreme in torch.aminmax(tensor))
        assert low == pytest.approx(expected, rel=1e-3), key  # the resized ones hold a constant to within rounding
        assert high == pytest.approx(expected, rel=1e-3), key


def test_a_safetensors_file_of_base_size_loads(tmp_path: Path) -> None:
    shapes = masked_image_model("B", old_tables=False)
    weights = constants(shapes, torch.float16)
    write_weights(tmp_path / "eva02_B_pt_in21k_p14.safetensors", weights)
    account = load_weights(detector("B"), tmp_path / "eva02_B_pt_in21k_p14.safetensors")
    assert account.complete
    assert {*account.used, *account.dropped} == weights.keys()
