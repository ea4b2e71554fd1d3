"""Keeps a detector's predictions small until they are scored, and turns them into COCO's result format."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from pycocotools import mask as coco_mask

# Axes: N instances of one image, H and W its rows and columns.

MASKS_AT_ONCE = 128  # bounds the host copy of full-size bitmaps: 128 masks of 640 x 480 are 39 MB


@dataclass(frozen=True)
class ImagePredictions:
    """What was found in one image."""

    image_id: int | str
    boxes: np.ndarray  # [N, 4] x, y, width, height, pixels
    scores: np.ndarray  # [N], of the boxes
    classes: np.ndarray  # [N] class index, contiguous from 0
    runs: tuple[bytes, ...] | None  # N compressed run lengths; None where the detector makes no masks
    mask_scores: np.ndarray | None  # [N]; None where masks are scored like boxes
    size: tuple[int, int]  # height and width of the masks

    def results(self, category_ids: Mapping[int, int]) -> Iterator[dict[str, Any]]:
        """One COCO result per instance: bbox and score, with masks also segmentation and, where it differs, mask_score."""
        for index, (box, score, label) in enumerate(zip(self.boxes.tolist(), self.scores.tolist(), self.classes.tolist())):
            result = {"image_id": self.image_id, "category_id": category_ids[label], "bbox": box, "score": score}
            if self.runs is not None:
                result["segmentation"] = {"size": list(self.size), "counts": self.runs[index].decode("ascii")}
            if self.mask_scores is not None:
                result["mask_score"] = float(self.mask_scores[index])
            yield result


def pack(image_id: int | str, instances: Instances) -> ImagePredictions:
    """The fields pred_boxes, scores, pred_classes and, where present, pred_masks [N, H, W] and mask_scores."""
    corners = _numpy(instances.pred_boxes.tensor)
    runs = encode_masks(instances.pred_masks) if instances.has("pred_masks") else None
    return ImagePredictions(
        image_id=image_id,
        boxes=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
        scores=_numpy(instances.scores),
        classes=_numpy(instances.pred_classes),
        runs=runs,
        mask_scores=_numpy(instances.mask_scores) if instances.has("mask_scores") else None,
        size=(int(instances.image_size[0]), int(instances.image_size[1])),
    )


def encode_masks(masks: torch.Tensor) -> tuple[bytes, ...]:
    """Bitmaps as COCO's compressed run lengths. [N, H, W] bool on any device -> N byte strings."""
    encoded: list[bytes] = []
    for part in masks.split(MASKS_AT_ONCE):
        # runs go down the columns; transposed on the device, the host array is in that order without a copy
        columns = part.to(torch.uint8).transpose(1, 2).contiguous().cpu().numpy()  # [N, W, H]
        encoded += [entry["counts"] for entry in coco_mask.encode(columns.transpose(2, 1, 0))]
    return tuple(encoded)


def coco_results(predictions: Iterable[ImagePredictions], category_ids: Mapping[int, int]) -> list[dict[str, Any]]:
    """All predictions in COCO's result format."""
    return [result for one in predictions for result in one.results(category_ids)]


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
