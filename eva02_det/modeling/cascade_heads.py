"""Cascade heads whose choice of boxes and whose mask scores are objects given in the config."""

from collections.abc import Callable
from typing import Any

from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import ImageList, Instances
from torch import Tensor

from eva02_det.modeling.mask_budget import MaskBudget
from eva02_det.modeling.rescorers import MaskRescorer
from eva02_det.modeling.selectors import Selection
from eva02_det.utils.errors import UserError

BoxSelector = Callable[[Tensor, Tensor, tuple[int, int]], Selection]


class Eva02CascadeROIHeads(CascadeROIHeads):
    """`CascadeROIHeads` with three choices for inference; training is that of the parent.

    detectron2 offers no public hook after the last stage: `_forward_box` and `_forward_mask` are its overridable steps.

    Args:
        select_boxes: boxes and averaged class scores of one image -> detections, e.g. `SoftNms()`. None: detectron2's
            own route with the thresholds of the last box predictor.
        rescore_masks: detections with masks -> detections with `mask_scores`, e.g. `Maskness()`. None: no such field.
        mask_budget: which detections get a mask at all, e.g. `MaskBudget(per_class=100)`; the others are dropped. None: all
            get one, as released. It does not apply to boxes that are handed in from outside.
        **kwargs: those of `CascadeROIHeads`.
    """

    def __init__(
        self,
        *,
        select_boxes: BoxSelector | None = None,
        rescore_masks: MaskRescorer | None = None,
        mask_budget: MaskBudget | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, choice in (("rescore_masks", rescore_masks), ("mask_budget", mask_budget)):
            if choice is not None and not self.mask_on:
                raise UserError(f"{name}={choice!r} in the config, but the model has no mask head; set it to null")
        if mask_budget is not None and not isinstance(rescore_masks, MaskRescorer | None):
            raise UserError(
                f"mask_budget in the config needs a rescorer with `calibrated`, unlike rescore_masks={rescore_masks!r}"
            )
        self.select_boxes = select_boxes
        self.rescore_masks = rescore_masks
        self.mask_budget = mask_budget

    def forward(
        self, images: ImageList, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """As the parent."""
        if self.training or self.mask_budget is None:
            return super().forward(images, features, proposals, targets)
        found = self._forward_box(features, proposals)
        return [self._masks_within_budget(features, index, image) for index, image in enumerate(found)], {}

    def _masks_within_budget(self, features: dict[str, Tensor], index: int, found: Instances) -> Instances:
        """The detections of one image of the batch, as many as the budget leaves."""
        own = {name: level[index : index + 1] for name, level in features.items()}
        add_masks = super()._forward_mask
        return self.mask_budget(found, lambda part: add_masks(own, [part])[0], self.rescore_masks)

    def _forward_box(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances] | None = None
    ) -> dict[str, Tensor] | list[Instances]:
        if self.training or self.select_boxes is None:
            return super()._forward_box(features, proposals, targets)
        refined = self._refine([features[name] for name in self.box_in_features], proposals)
        return [self.select_boxes(boxes, scores, size)[0] for boxes, scores, size in refined]

    def _refine(self, features: list[Tensor], proposals: list[Instances]) -> list[tuple[Tensor, Tensor, tuple[int, int]]]:
        """Per image: boxes of the last stage [R, 4], class scores averaged over the stages [R, K+1], image size."""
        sizes = [image.image_size for image in proposals]
        boxes, by_stage = [], []
        for stage, predictor in enumerate(self.box_predictor):
            if stage > 0:
                proposals = self._create_proposals_from_boxes(boxes, sizes)
            outputs = self._run_stage(features, proposals, stage)
            boxes = predictor.predict_boxes(outputs, proposals)
            by_stage.append(predictor.predict_probs(outputs, proposals))
        scores = [sum(stages) / len(stages) for stages in zip(*by_stage)]
        return list(zip(boxes, scores, sizes))

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> dict[str, Tensor] | list[Instances]:
        outputs = super()._forward_mask(features, instances)
        if self.training or self.rescore_masks is None:
            return outputs
        # detections handed in from outside may come without scores: then there is nothing to calibrate
        return [self.rescore_masks(image) if image.has("scores") else image for image in outputs]
