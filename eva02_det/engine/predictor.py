"""Detections on single pictures, in five lines of Python.

```python
from eva02_det import Predictor

predict = Predictor.from_folder("my_model")
result = predict("street.jpg")
for name, score, box in zip(result.names, result.scores.tolist(), result.boxes.tolist()):
    print(name, score, box)
```
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.modeling import detector_postprocess
from detectron2.structures import Instances
from PIL import Image
from torch import Tensor, nn

from eva02_det.engine.description import ModelDescription, describe, uses_average
from eva02_det.engine.images import Picture, read_picture
from eva02_det.engine.model_folder import load_folder
from eva02_det.engine.recipe import load_recipe
from eva02_det.engine.tta import usual_scales
from eva02_det.modeling.tta import TTA
from eva02_det.utils.errors import UserError

# Axes: N detections, H, W rows and columns of the picture.
Source = str | Path | Image.Image | np.ndarray | Tensor | Picture
Scales = bool | Sequence[int]  # of test-time augmentation: long sides in px, or whether there is any


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture, the surest first. All tensors lie on the CPU.

    Coordinates are those of the picture the way a viewer shows it: `notes` say where a file was turned by its EXIF
    orientation, or changed otherwise, when it was read.
    """

    boxes: Tensor  # [N, 4] float, x0, y0, x1, y1 in px of the picture as it was given
    scores: Tensor  # [N] float, 0 .. 1
    labels: Tensor  # [N] int64, positions in the model's classes
    names: tuple[str, ...]  # N class names
    masks: Tensor | None  # [N, H, W] bool; None where the model makes no masks
    mask_scores: Tensor | None  # [N] float, the score of each as a mask; None where the protocol does not calibrate masks
    size: tuple[int, int]  # height, width of the picture in px
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def above(self, score: float) -> "Prediction":
        """Those that score at least so much."""
        kept = (self.scores >= score).nonzero().squeeze(1)
        return Prediction(
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            labels=self.labels[kept],
            names=tuple(self.names[row] for row in kept.tolist()),
            masks=None if self.masks is None else self.masks[kept],
            mask_scores=None if self.mask_scores is None else self.mask_scores[kept],
            size=self.size,
            notes=self.notes,
        )


class Predictor:
    """A detector that takes pictures and gives `Prediction`s, with the preprocessing and the protocol of its evaluation.

    Args:
        model: a detector in evaluation mode, on the device it shall run on.
        description: its classes and input size.
        score_threshold: least score of a detection that is returned; 0 returns all that the protocol lets through. A higher
            one saves memory, since masks as large as the picture are made only for what is returned.
        batch_size: pictures that go through the model together. A model that pads to a square (all published ones) finds the
            same in any batch, to the last digits.
    """

    def __init__(
        self, model: nn.Module, description: ModelDescription, *, score_threshold: float = 0.0, batch_size: int = 1
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be at least 1")
        if not 0 <= score_threshold <= 1:
            raise UserError(f"score_threshold={score_threshold} must lie between 0 and 1")
        self.model = model.eval()
        self.description = description
        self.score_threshold = score_threshold
        self.batch_size = batch_size

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        device: str = "auto",
        protocol: str | None = None,
        tta: Scales = False,
        **options: Any,
    ) -> "Predictor":
        """The model of a folder that tools/export.py wrote. Nothing else is needed, and no code of the folder is run.

        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1". protocol: a named test protocol in place of the
        folder's. tta: test-time augmentation, True or the long sides in px. options: score_threshold, batch_size.
        """
        description = load_folder(folder)
        description = description if protocol is None else description.under(protocol)
        return cls._with_weights(description, folder, which="model", device=device, tta=tta, **options)

    @classmethod
    def from_config(
        cls,
        config_file: str | Path,
        checkpoint: str | Path,
        *,
        overrides: Iterable[str] = (),
        classes: str | Path | None = None,
        ema: bool | None = None,
        device: str = "auto",
        protocol: str | None = None,
        tta: Scales = False,
        **options: Any,
    ) -> "Predictor":
        """The model of a config, as the training tool builds it, with the weights of a checkpoint.

        classes: file with the class names, see `describe`. ema: the averaged weights; None: those that the config tests.
        The other arguments are those of `from_folder`.
        """
        chosen = [*overrides, *([] if protocol is None else [f"protocol={protocol}"])]
        config = load_recipe(config_file, chosen)
        averaged = uses_average(config) if ema is None else ema
        description = describe(config, classes=classes)
        return cls._with_weights(description, checkpoint, which="ema" if averaged else "model", device=device, tta=tta, **options)

    @classmethod
    def _with_weights(
        cls, description: ModelDescription, source: str | Path, *, which: str, device: str, tta: Scales, **options: Any
    ) -> "Predictor":
        place = find_device(device)
        model = description.load(source, which=which, device=place)
        if tta:
            model = TTA(model, scales=usual_scales(description.preprocessing.long_side_px) if tta is True else tta)
        return cls(model, description, **options)

    def __call__(self, images: Source | Sequence[Source]) -> Any:
        """One picture -> its `Prediction`; a list or tuple of pictures -> a list of them.

        A picture is a path, a PIL image, an RGB array [H, W, 3] or an RGB tensor [3, H, W], the last two uint8.
        """
        if isinstance(images, list | tuple):
            starts = range(0, len(images), self.batch_size)
            return [result for start in starts for result in self._batch(images[start : start + self.batch_size])]
        return self._batch([images])[0]

    def _batch(self, sources: Iterable[Source]) -> list[Prediction]:
        return self.predict([as_picture(source) for source in sources])

    @torch.no_grad()
    def predict(self, pictures: Sequence[Picture]) -> list[Prediction]:
        """Pictures that are decoded already, as one batch."""
        resize = not isinstance(self.model, TTA)
        records = [self.description.preprocessing.record(picture.pixels, resize=resize) for picture in pictures]
        found = self.model.inference(records, do_postprocess=False)
        return [self._finish(one, picture) for one, picture in zip(found, pictures, strict=True)]

    def _finish(self, found: Instances, picture: Picture) -> Prediction:
        """Detections in the pixels of the network's input -> in those of the picture, on the CPU."""
        height, width = picture.pixels.shape[:2]
        kept = found[found.scores >= self.score_threshold] if self.score_threshold > 0 else found
        final = detector_postprocess(kept, height, width).to("cpu")
        labels = final.pred_classes
        return Prediction(
            boxes=final.pred_boxes.tensor,
            scores=final.scores,
            labels=labels,
            names=tuple(self.description.classes[label] for label in labels.tolist()),
            masks=final.pred_masks.bool() if final.has("pred_masks") else None,
            mask_scores=final.mask_scores if final.has("mask_scores") else None,
            size=(height, width),
            notes=picture.notes,
        )


def as_picture(source: Source) -> Picture:
    """Whatever a user may call a picture, decoded. UserError where it is none."""
    if isinstance(source, Picture):
        return source
    if isinstance(source, str | Path | Image.Image):
        return read_picture(source)
    if isinstance(source, Tensor) and source.dtype == torch.uint8 and source.ndim == 3 and source.shape[0] == 3:
        return as_picture(source.permute(1, 2, 0).cpu().numpy())
    if isinstance(source, np.ndarray) and source.dtype == np.uint8 and source.ndim == 3 and source.shape[2] == 3 and source.size:
        return Picture(np.ascontiguousarray(source))
    shape = f" of shape {tuple(source.shape)} and type {source.dtype}" if hasattr(source, "shape") else ""
    raise UserError(
        "a picture is a path, a PIL image, an RGB uint8 array [H, W, 3] or an RGB uint8 tensor [3, H, W], "
        f"not {type(source).__name__}{shape}"
    )


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} is not known; give auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        count = torch.cuda.device_count()
        raise UserError(f"device {name} is not there: {count} CUDA devices are visible; give cpu or one of them")
    return device
