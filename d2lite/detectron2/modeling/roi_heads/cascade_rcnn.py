"""Box heads in a row, each refining the boxes of the one before (Cascade R-CNN, arXiv:1712.00726).

Axes: B images, P proposals of an image, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..matcher import Matcher
from ..poolers import ROIPooler
from ._sampling import classes_of, match_boxes
from ._statistics import log_samples
from .fast_rcnn import fast_rcnn_inference
from .roi_heads import HeadsOutput, StandardROIHeads, _maps, _required

Stage = tuple[nn.Module, tuple[Tensor, Tensor], list[Instances]]


class CascadeROIHeads(StandardROIHeads):
    """`box_heads`, `box_predictors` (class-agnostic) and `proposal_matchers`, one of each for a stage.

    The first matcher also labels the proposals of the first stage.
    """

    def __init__(
        self,
        *,
        box_in_features: list[str],
        box_pooler: ROIPooler,
        box_heads: list[nn.Module],
        box_predictors: list[nn.Module],
        proposal_matchers: list[Matcher],
        **kwargs: Any,
    ) -> None:
        counts = {len(parts) for parts in (box_heads, box_predictors, proposal_matchers)}
        if len(counts) != 1:
            raise AssertionError(f"every stage needs a head, a predictor and a matcher, got {sorted(counts)} of them")
        if "proposal_matcher" in kwargs:
            raise AssertionError("give proposal_matchers, one a stage, instead of proposal_matcher")
        super().__init__(
            box_in_features=box_in_features,
            box_pooler=box_pooler,
            box_head=nn.ModuleList(box_heads),
            box_predictor=nn.ModuleList(box_predictors),
            proposal_matcher=proposal_matchers[0],
            **kwargs,
        )
        self.num_cascade_stages = len(self.box_head)
        self.proposal_matchers = proposal_matchers

    def forward(
        self, images: ImageList, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances] | None = None
    ) -> HeadsOutput:
        """As `StandardROIHeads.forward`; loss keys end in _stage{i}, only the mask loss does not."""
        if not self.training:
            found = self._forward_box(features, proposals)
            return self.forward_with_given_boxes(features, found), {}
        sampled = self.label_and_sample_proposals(proposals, _required(targets))
        losses = {**self._forward_box(features, sampled, targets), **self._forward_mask(features, sampled)}
        return sampled, losses

    def _forward_box(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances] | None = None
    ) -> dict[str, Tensor] | list[Instances]:
        """Losses of all stages in training; otherwise detections from mean scores and the boxes of the last stage."""
        maps = _maps(features, self.box_in_features)
        stages: list[Stage] = []
        for number, predictor in enumerate(self.box_predictor):
            if number > 0:
                proposals = self._next_proposals(stages[-1], number, targets)
            stages.append((predictor, self._run_stage(maps, proposals, number), proposals))
        return self._stage_losses(stages) if self.training else self._detections(stages)

    def _next_proposals(self, previous: Stage, number: int, targets: list[Instances] | None) -> list[Instances]:
        """What stage `number` starts from: the boxes of the stage before, labelled again in training."""
        predictor, predictions, proposals = previous
        boxes = predictor.predict_boxes(predictions, proposals)
        refined = self._create_proposals_from_boxes(boxes, [image.image_size for image in proposals])
        return self._match_and_label_boxes(refined, number, targets) if self.training else refined

    def _stage_losses(self, stages: list[Stage]) -> dict[str, Tensor]:
        losses = {}
        for number, (predictor, predictions, proposals) in enumerate(stages):
            with get_event_storage().name_scope(f"stage{number}"):
                of_stage = predictor.losses(predictions, proposals)
            losses.update({f"{name}_stage{number}": value for name, value in of_stage.items()})
        return losses

    def _detections(self, stages: list[Stage]) -> list[Instances]:
        # every stage has the same rows, in the same order
        per_stage = [predictor.predict_probs(predictions, rows) for predictor, predictions, rows in stages]
        scores = [sum(of_image) * (1.0 / len(stages)) for of_image in zip(*per_stage, strict=True)]
        predictor, predictions, proposals = stages[-1]
        found, _ = fast_rcnn_inference(
            predictor.predict_boxes(predictions, proposals),
            scores,
            [image.image_size for image in proposals],
            predictor.test_score_thresh,
            predictor.test_nms_thresh,
            predictor.test_topk_per_image,
        )
        return found

    @torch.no_grad()
    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        """Give the proposals `gt_classes` and `gt_boxes` by the matcher of `stage`; nothing is drawn or dropped."""
        for image, truth in zip(proposals, targets, strict=True):
            matches, labels = match_boxes(self.proposal_matchers[stage], truth, image.proposal_boxes)
            image.gt_classes = classes_of(matches, labels, truth.gt_classes, self.num_classes)
            known = truth.gt_boxes
            image.gt_boxes = known[matches] if len(known) else Boxes(known.tensor.new_zeros(len(image), 4))
        log_samples([image.gt_classes for image in proposals], self.num_classes, prefix=f"stage{stage}/roi_head")
        return proposals

    def _run_stage(self, features: list[Tensor], proposals: list[Instances], stage: int) -> tuple[Tensor, Tensor]:
        """Logits and offsets of one stage; the gradient into the shared features is divided among the stages."""
        pooled = self.box_pooler(features, [image.proposal_boxes for image in proposals])
        shared = _GradientShare.apply(pooled, 1.0 / self.num_cascade_stages)
        return self.box_predictor[stage](self.box_head[stage](shared))

    def _create_proposals_from_boxes(
        self, boxes: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Clipped boxes as proposals without gradient; in training those without area are dropped."""
        results = []
        for of_image, size in zip(boxes, image_sizes, strict=True):
            corners = Boxes(of_image.detach())
            corners.clip(size)
            image = Instances(size, proposal_boxes=corners)
            # at test time the rows must stay aligned between stages, their scores are averaged
            results.append(image[corners.nonempty()] if self.training else image)
        return results


class _GradientShare(torch.autograd.Function):
    """Identity whose gradient is multiplied by a constant."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * gradient, None
