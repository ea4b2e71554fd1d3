"""Masks that are pasted into the image while they are encoded, so that an image's bitmaps are never in memory all at once."""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.modeling import detector_postprocess
from detectron2.structures import Instances
from torch import nn

from eva02_det.evaluation.predictions import UNPASTED


class LeanMasks(nn.Module):
    """A detector whose outputs keep their masks small, as an evaluator of this package takes them too.

    It is a GeneralizedRCNN, or has the same `inference(records, do_postprocess=False)`.
    A thousand masks of a picture of 12 megapixels are 12 GB of bitmaps, their probabilities 3 MB.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Instances]]:
        """As the detector's, but for the masks."""
        found = self.detector.inference(batched_inputs, do_postprocess=False)
        return [{"instances": _scaled(one, record)} for one, record in zip(found, batched_inputs, strict=True)]


def lean(model: nn.Module) -> nn.Module:
    """The model with lean masks where it is such a detector, also inside DDP; else itself."""
    bare = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return LeanMasks(bare) if callable(getattr(bare, "inference", None)) else model


def _scaled(found: Instances, record: Mapping[str, Any]) -> Instances:
    """Detections at the size of the original image."""
    if found.has("pred_masks"):
        found.set(UNPASTED, found.pred_masks)
        found.remove("pred_masks")
    height, width = found.image_size
    return detector_postprocess(found, record.get("height", height), record.get("width", width))
