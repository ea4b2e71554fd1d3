"""The backbone and its pyramid as an ONNX file of a fixed input size, compared with torch before it is handed out."""

import importlib.util
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from eva02_det.utils.errors import UserError

OPSET = 18
# Largest difference between onnxruntime and torch on the CPU, as a part of the largest value of the map. Float32 sums in
# another order differ by some 1e-6; a wrong operator differs by whole values.
TOLERANCE = 1e-4
LARGEST_FILE = 1_900_000_000  # bytes; above, protobuf cannot hold the weights and they go to a file beside it
NEEDED = ("onnx", "onnxscript", "onnxruntime")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OnnxCheck:
    """What was written and how well it agrees with torch."""

    shapes: dict[str, tuple[int, ...]]  # of the maps
    errors: dict[str, float]  # of each map: largest difference as a part of its largest value


class _Maps(nn.Module):
    """The pyramid with a tuple for an answer."""

    def __init__(self, pyramid: nn.Module) -> None:
        super().__init__()
        self.pyramid = pyramid

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.pyramid(images).values())


def export_onnx(model: nn.Module, path: str | Path, *, height: int, width: int, batch: int = 1, seed: int = 0) -> OnnxCheck:
    """Write `model.backbone` for inputs [batch, 3, height, width] and check it on random numbers in onnxruntime.

    The input `images` is what the detector's `preprocess_image` makes: RGB less mean, over deviation (both are in the file's
    metadata), padded with 0 at the right and the bottom. The outputs p2, p3, ... are the maps of the pyramid.

    Raises:
        UserError: for a missing package, a backbone set to low precision, a size that the pyramid does not divide, or a file
            that does not agree with torch within TOLERANCE; the file is then not written.
    """
    _require_packages()
    backbone = model.backbone.cpu().eval()
    if getattr(backbone, "eval_dtype", None) is not None:
        raise UserError(
            f"ONNX files are float32, the backbone is set to {backbone.eval_dtype}; set model.backbone.eval_dtype=null"
        )
    step = max(backbone.padding_constraints.get("size_divisibility", 0), backbone.size_divisibility, 1)
    if height < 1 or width < 1 or height % step or width % step:
        raise UserError(f"an input of {height} x {width} px does not fit the pyramid; both sides must be multiples of {step} px")
    images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = backbone(images)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        beside = Path(folder) / path.name
        _write(backbone, images, list(expected), _metadata(model), beside)
        check = _compare(beside, images, expected)
        for part in sorted(beside.parent.iterdir(), reverse=True):  # weights, where they have a file of their own, come first
            part.replace(path.parent / part.name)
    log.info("%s: %s", path, ", ".join(f"{name} within {error:.1e}" for name, error in check.errors.items()))
    return check


def _write(backbone: nn.Module, images: Tensor, names: list[str], metadata: dict[str, str], path: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", category=FutureWarning)  # about torch's own calls
        program = torch.onnx.export(
            _Maps(backbone).eval(),
            (images,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=names,
            verbose=False,
        )
    program.model.metadata_props.update(metadata)
    size = sum(p.numel() * p.element_size() for p in backbone.parameters())
    program.save(str(path), external_data=size > LARGEST_FILE)


def _compare(path: Path, images: Tensor, expected: dict[str, Tensor]) -> OnnxCheck:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = dict(zip(expected, session.run(list(expected), {"images": images.numpy()})))
    errors = {name: _difference(found[name], level.numpy()) for name, level in expected.items()}
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= TOLERANCE:
        raise UserError(
            f"the ONNX file differs from torch by {errors[worst]:.1e} of the largest value in {worst}, so it is not written; "
            "export it with another version of torch"
        )
    return OnnxCheck({name: level.shape for name, level in found.items()}, errors)


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference as a part of the largest value; infinite for another shape."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12))


def _metadata(model: nn.Module) -> dict[str, str]:
    mean, std = (getattr(model, name).flatten().tolist() for name in ("pixel_mean", "pixel_std"))
    return {
        "input": "RGB, (value 0..255 - pixel_mean) / pixel_std, padded with 0 right and below",
        "pixel_mean": str([round(value, 4) for value in mean]),
        "pixel_std": str([round(value, 4) for value in std]),
        "strides": str({name: shape.stride for name, shape in model.backbone.output_shape().items()}),
    }


def _require_packages() -> None:
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise UserError(f"ONNX needs {', '.join(absent)}, which is not installed; run `pip install eva02-det[onnx]`")
