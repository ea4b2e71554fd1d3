"""Which of a detector's boxes are kept: hard and soft non-maximum suppression as objects for a config.

Axes: R boxes, K classes (column K of the scores is background), M detections.
"""

from dataclasses import dataclass

import torch
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Boxes, Instances
from torch import Tensor

from eva02_det.layers.soft_nms import METHODS, soft_nms
from eva02_det.utils.errors import UserError

Selection = tuple[Instances, Tensor]
THINNEST = 1e-5  # of the image's long side: a hundred times what float32 resolves there


@dataclass(frozen=True)
class HardNms:
    """detectron2's own route: threshold, NMS class by class, the best `max_detections` of the image."""

    iou_threshold: float = 0.5
    score_threshold: float = 0.05
    max_detections: int = 100

    def __post_init__(self) -> None:
        _require("HardNms", "iou_threshold", self.iou_threshold, 0 <= self.iou_threshold <= 1, "between 0 and 1")
        _require_common("HardNms", self.score_threshold, max_detections=self.max_detections)

    def __call__(self, boxes: Tensor, scores: Tensor, image_size: tuple[int, int]) -> Selection:
        """[R, 4] or [R, 4K], [R, K+1], (height, width) -> detections, best first, and their rows [M].

        Rows with a value that is not finite are dropped first; the rows returned count the others only.
        """
        detections, rows = fast_rcnn_inference(
            [boxes], [scores], [image_size], self.score_threshold, self.iou_threshold, self.max_detections
        )
        return detections[0], rows[0]


@dataclass(frozen=True)
class SoftNms:
    """Soft-NMS as in the system-level results of EVA-02 (section 3.3.1 of the paper, Tables 30 to 33).

    As released nothing limits the number of survivors; every one of them costs a pass through the mask head. COCO counts
    at most 100 detections per image and class, so `max_per_class=100` changes no box AP (boxes that may lose their area on
    the way to the original image are not counted). It does change mask AP where masks have scores of their own: there a
    `MaskBudget` limits the masks. `max_detections` limits the image.
    """

    method: str = "linear"
    iou_threshold: float = 0.6
    sigma: float = 0.5
    min_score: float = 1e-3
    score_threshold: float = 0.0
    per_class: bool = True
    max_per_class: int | None = None
    max_detections: int | None = None

    def __post_init__(self) -> None:
        _require("SoftNms", "method", self.method, self.method in METHODS, f"one of {', '.join(METHODS)}")
        _require("SoftNms", "iou_threshold", self.iou_threshold, 0 < self.iou_threshold <= 1, "above 0 and at most 1")
        _require("SoftNms", "sigma", self.sigma, self.sigma > 0, "above 0")
        _require("SoftNms", "min_score", self.min_score, 0 <= self.min_score < 1, "at least 0 and below 1")
        _require_common("SoftNms", self.score_threshold, max_per_class=self.max_per_class, max_detections=self.max_detections)

    def __call__(self, boxes: Tensor, scores: Tensor, image_size: tuple[int, int]) -> Selection:
        """[R, 4] or [R, 4K], [R, K+1], (height, width) -> detections, best decayed score first, and their rows [M].

        Rows with a value that is not finite are dropped first; the rows returned count the others only. A candidate is a
        pair of row and class with a score strictly above `score_threshold`; boxes are clipped to the image.
        """
        finite = boxes.isfinite().all(1) & scores.isfinite().all(1)
        clipped = Boxes(boxes[finite].reshape(-1, 4))
        clipped.clip(image_size)
        foreground = scores[finite, :-1]
        rows, classes = (foreground > self.score_threshold).nonzero(as_tuple=True)
        per_row = boxes.shape[1] // 4
        candidates = clipped.tensor[rows if per_row == 1 else rows * per_row + classes]
        picked, decayed = soft_nms(
            candidates,
            foreground[rows, classes],
            classes if self.per_class else None,
            method=self.method,
            iou_threshold=self.iou_threshold,
            sigma=self.sigma,
            min_score=self.min_score,
        )
        kept = self._within_limits(classes[picked], surely_have_area(candidates[picked], image_size))
        picked, decayed = picked[kept], decayed[kept]
        fields = {"pred_boxes": Boxes(candidates[picked]), "scores": decayed, "pred_classes": classes[picked]}
        return Instances(image_size, **fields), rows[picked]

    def _within_limits(self, classes: Tensor, solid: Tensor) -> Tensor:
        """Positions that the two limits leave, in order. [M] twice, sorted by score -> [m]."""
        kept = torch.arange(len(classes), device=classes.device)
        if self.max_per_class is not None:
            kept = kept[rank_in_class(classes, solid) < self.max_per_class]
        return kept[: self.max_detections]


def rank_in_class(classes: Tensor, counted: Tensor | None = None) -> Tensor:
    """How many earlier entries have the same class, of all or of those that are counted. [M], bool [M] -> [M]."""
    grouped, order = classes.sort(stable=True)
    one = torch.ones_like(order) if counted is None else counted[order].long()
    before = one.cumsum(0) - one
    return torch.empty_like(order).index_copy_(0, order, before - before[torch.searchsorted(grouped, grouped)])


def surely_have_area(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Whether boxes keep an area when they are scaled to the original image; those without are dropped there. [M, 4] -> [M]."""
    return (boxes[:, 2:] - boxes[:, :2]).amin(1) > THINNEST * max(image_size)


def _require_common(selector: str, score_threshold: float, **limits: int | None) -> None:
    _require(selector, "score_threshold", score_threshold, 0 <= score_threshold < 1, "at least 0 and below 1")
    for name, limit in limits.items():
        _require(selector, name, limit, limit is None or limit >= 1, "at least 1")


def _require(selector: str, name: str, value: object, valid: bool, wanted: str) -> None:
    if not valid:
        raise UserError(f"{selector}({name}={value!r}) in the config: {name} must be {wanted}")
