"""ONNX files of backbone and pyramid agree with torch, windows with padding included, or are not written."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from eva02_det.engine.onnx import TOLERANCE, export_onnx
from eva02_det.utils.errors import UserError
from tests.engine.tiny_detector import drawn_picture, tiny_config, tiny_model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny_model(tiny_config())


def test_the_file_gives_the_maps_of_torch_on_real_inputs_and_says_what_goes_in(model: nn.Module, tmp_path: Path):
    """4 x 10 tokens in windows of 3: windowed and global blocks, padding on both sides, a map that is not square."""
    height, width, path = 64, 160, tmp_path / "backbone.onnx"
    check = export_onnx(model, path, height=height, width=width, batch=2)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [side.dim_value for side in proto.graph.input[0].type.tensor_type.shape.dim] == [2, 3, height, width]
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    assert facts["pixel_mean"] == "[123.675, 116.28, 103.53]"
    assert "'p2': 4" in facts["strides"]

    pictures = [np.asarray(drawn_picture(width, height, seed)).transpose(2, 0, 1).copy() for seed in range(2)]
    padded = model.preprocess_image([{"image": torch.from_numpy(pixels)} for pixels in pictures]).tensor
    images = padded[..., :height, :width].contiguous()
    with torch.no_grad():
        expected = model.backbone(images)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == list(expected) == ["p2", "p3", "p4", "p5", "p6"]
    for level, found in zip(expected.values(), session.run(None, {"images": images.numpy()})):
        np.testing.assert_allclose(found, level.numpy(), rtol=0, atol=TOLERANCE * float(level.abs().max()))
    assert {name: tuple(level.shape) for name, level in expected.items()} == check.shapes
    assert max(check.errors.values()) <= TOLERANCE
    assert [file.name for file in tmp_path.iterdir()] == ["backbone.onnx"]


@pytest.mark.parametrize(("height", "width"), [(100, 128), (128, 16), (0, 32), (-32, 32)])
def test_a_size_that_the_pyramid_does_not_divide_is_refused(model: nn.Module, height: int, width: int, tmp_path: Path):
    with pytest.raises(UserError, match="multiples of 32"):
        export_onnx(model, tmp_path / "x.onnx", height=height, width=width)
    assert not list(tmp_path.iterdir())


def test_a_backbone_in_low_precision_is_refused(tmp_path: Path):
    config = tiny_config()
    config.model.backbone.eval_dtype = "bf16"
    with pytest.raises(UserError, match="bf16"):
        export_onnx(tiny_model(config), tmp_path / "x.onnx", height=32, width=32)


def test_a_file_that_differs_from_torch_is_not_written(tmp_path: Path):
    model = tiny_model(tiny_config())
    model.backbone.register_forward_hook(_add_chance)
    with pytest.raises(UserError, match="differs from torch"):
        export_onnx(model, tmp_path / "x.onnx", height=32, width=32)
    assert not list(tmp_path.iterdir())


def _add_chance(_module: nn.Module, _inputs: tuple, maps: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: level + torch.rand_like(level) for name, level in maps.items()}
