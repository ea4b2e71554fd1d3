"""Scores that know how good the predicted mask is, as objects for a config."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from detectron2.structures import Instances
from torch import Tensor

from eva02_det.layers.mask_scores import mask_confidence
from eva02_det.utils.errors import UserError

TARGETS = ("masks", "boxes_and_masks")


@runtime_checkable
class MaskRescorer(Protocol):
    """What the heads need of a rescorer."""

    @property
    def changes_scores(self) -> bool:
        """Whether boxes are ranked by the calibrated score too."""

    def calibrated(self, detections: Instances) -> Tensor:
        """Detections with `scores` and `pred_masks` -> their scores as masks [M], none above `scores`."""

    def __call__(self, detections: Instances) -> Instances:
        """The detections with `mask_scores`."""


@dataclass(frozen=True)
class Maskness:
    """Score times the mean mask probability inside the mask, in a field of its own: `mask_scores`.

    With applies_to="masks" (COCO) `scores` stays as it is: box AP reads the one field, mask AP the other, so that a single
    pass gives both published numbers. With "boxes_and_masks" (LVIS) `scores` becomes the calibrated score as well and
    the detections are put in its order. Either way they come out in descending order of `scores`.
    """

    threshold: float = 0.5
    applies_to: str = "masks"

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise UserError(f"Maskness(threshold={self.threshold!r}) in the config: it must be at least 0 and below 1")
        if self.applies_to not in TARGETS:
            raise UserError(f"Maskness(applies_to={self.applies_to!r}) in the config: it must be one of {', '.join(TARGETS)}")

    @property
    def changes_scores(self) -> bool:
        return self.applies_to == "boxes_and_masks"

    def calibrated(self, detections: Instances) -> Tensor:
        """`scores` [M] times the confidence of `pred_masks` [M, 1, S, S]. -> [M]."""
        return detections.scores * mask_confidence(detections.pred_masks, self.threshold)

    def __call__(self, detections: Instances) -> Instances:
        """Detections with `scores` [M] and `pred_masks` [M, 1, S, S] in [0, 1], not yet pasted -> with `mask_scores` [M]."""
        calibrated = self.calibrated(detections)
        rescored = Instances(detections.image_size, **detections.get_fields())
        rescored.mask_scores = calibrated
        if not self.changes_scores:
            return rescored
        rescored.scores = calibrated
        return rescored[calibrated.argsort(descending=True, stable=True)]
