"""Cascade heads whose choice of boxes and whose mask scores are objects given in the config."""

from collections.abc import Callable
from typing import Any

from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import ImageList, Instances
from torch import Tensor

from eva02_det.modeling.mask_budget import MaskBudget
from eva02_det.modeling.rescorers import MaskRescorer
from eva02_det.modeling.selectors import HardNms, Selection
from eva02_det.utils.errors import UserError

BoxSelector = Callable[[Tensor, Tensor, tuple[int, int]], Selection]
Candidates = tuple[Tensor, Tensor, tuple[int, int]]


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

    def refine(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Candidates]:
        """Per image: boxes of the last stage [R, 4], class scores averaged over the stages [R, K+1], image size."""
        maps = [features[name] for name in self.box_in_features]
        sizes = [image.image_size for image in proposals]
        boxes, by_stage = [], []
        for stage, predictor in enumerate(self.box_predictor):
            if stage > 0:
                proposals = self._create_proposals_from_boxes(boxes, sizes)
            outputs = self._run_stage(maps, proposals, stage)
            boxes = predictor.predict_boxes(outputs, proposals)
            by_stage.append(predictor.predict_probs(outputs, proposals))
        scores = [sum(stages) / len(stages) for stages in zip(*by_stage)]
        return list(zip(boxes, scores, sizes))

    def select(self, boxes: Tensor, scores: Tensor, image_size: tuple[int, int]) -> Instances:
        """What `refine` gives for one image -> its detections."""
        selector = self.select_boxes
        if selector is None:
            last = self.box_predictor[-1]
            selector = HardNms(last.test_nms_thresh, last.test_score_thresh, last.test_topk_per_image)
        return selector(boxes, scores, image_size)[0]

    def predict_masks(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """The detections with `pred_masks` [M, 1, S, S], scores as they were; unchanged without a mask head. For test time."""
        return super()._forward_mask(features, instances)

    def rescore(self, instances: Instances) -> Instances:
        """One image's detections with masks after `rescore_masks`. Those from outside may lack scores: then nothing is done."""
        return instances if self.rescore_masks is None or not instances.has("scores") else self.rescore_masks(instances)

    def _forward_box(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances] | None = None
    ) -> dict[str, Tensor] | list[Instances]:
        if self.training:
            return super()._forward_box(features, proposals, targets)
        return [self.select(*candidates) for candidates in self.refine(features, proposals)]

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> dict[str, Tensor] | list[Instances]:
        if self.training:
            return super()._forward_mask(features, instances)
        return [self.rescore(image) for image in self.predict_masks(features, instances)]

    def _masks_within_budget(self, features: dict[str, Tensor], index: int, found: Instances) -> Instances:
        """The detections of one image of the batch, as many as the budget leaves."""
        own = {name: level[index : index + 1] for name, level in features.items()}
        return self.mask_budget(found, lambda part: self.predict_masks(own, [part])[0], self.rescore_masks)
