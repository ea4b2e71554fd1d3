"""Box and mask heads that share the proposals of an image.

Axes: B images, P proposals of an image.
"""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ..matcher import Matcher
from ..poolers import ROIPooler
from ..proposal_generator.proposal_utils import add_ground_truth_to_proposals
from ..sampling import subsample_labels
from ._sampling import classes_of, match_boxes, select_foreground_proposals
from ._statistics import log_samples

__all__ = ["ROIHeads", "StandardROIHeads", "select_foreground_proposals"]

HeadsOutput = tuple[list[Instances], dict[str, Tensor]]


class ROIHeads(nn.Module):
    """Chooses the proposals to train on: `batch_size_per_image`, at most `positive_fraction` of them foreground."""

    def __init__(
        self,
        *,
        num_classes: int,
        batch_size_per_image: int,
        positive_fraction: float,
        proposal_matcher: Matcher,
        proposal_append_gt: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        self.proposal_matcher, self.proposal_append_gt = proposal_matcher, proposal_append_gt

    def _sample_proposals(
        self, matched_idxs: Tensor, matched_labels: Tensor, gt_classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rows that were drawn, foreground first, and their classes (`num_classes` for background). [P] three times."""
        classes = classes_of(matched_idxs, matched_labels, gt_classes, self.num_classes)
        drawn = subsample_labels(classes, self.batch_size_per_image, self.positive_fraction, self.num_classes)
        rows = torch.cat(drawn)
        return rows, classes[rows]

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Sampled proposals with `gt_classes` and, where the image has ground truth, every other `gt_*` field of their match."""
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        sampled = [self._label_image(image, truth) for image, truth in zip(proposals, targets, strict=True)]
        log_samples([image.gt_classes for image in sampled], self.num_classes)
        return sampled

    def _label_image(self, proposals: Instances, truth: Instances) -> Instances:
        matches, labels = match_boxes(self.proposal_matcher, truth, proposals.proposal_boxes)
        rows, classes = self._sample_proposals(matches, labels, truth.gt_classes)
        sampled = proposals[rows]
        sampled.gt_classes = classes
        if len(truth):
            partners = matches[rows]
            for name, field in truth.get_fields().items():
                if name.startswith("gt_") and not sampled.has(name):
                    sampled.set(name, field[partners])
        return sampled

    def forward(
        self, images: ImageList, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances] | None = None
    ) -> HeadsOutput:
        """Training: sampled proposals and losses. Test: detections and an empty dictionary."""
        raise NotImplementedError


class StandardROIHeads(ROIHeads):
    """A box head and, unless `mask_in_features` is None, a mask head, each with a pooler of its own.

    With `train_on_pred_boxes` the mask head trains on the boxes that the box head predicts.
    """

    def __init__(
        self,
        *,
        box_in_features: list[str],
        box_pooler: ROIPooler,
        box_head: nn.Module,
        box_predictor: nn.Module,
        mask_in_features: list[str] | None = None,
        mask_pooler: ROIPooler | None = None,
        mask_head: nn.Module | None = None,
        train_on_pred_boxes: bool = False,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.in_features = self.box_in_features = box_in_features
        self.box_pooler, self.box_head, self.box_predictor = box_pooler, box_head, box_predictor
        self.mask_on = mask_in_features is not None
        if self.mask_on:
            self.mask_in_features, self.mask_pooler, self.mask_head = mask_in_features, mask_pooler, mask_head
        self.train_on_pred_boxes = train_on_pred_boxes

    def forward(
        self, images: ImageList, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances] | None = None
    ) -> HeadsOutput:
        """See `ROIHeads.forward`; the mask head runs on the sampled proposals, at test time on the detections."""
        if not self.training:
            found = self._forward_box(features, proposals)
            return self.forward_with_given_boxes(features, found), {}
        sampled = self.label_and_sample_proposals(proposals, _required(targets))
        losses = self._forward_box(features, sampled)
        # the mask head sees the boxes as the box head left them, hence after it
        losses.update(self._forward_mask(features, sampled))
        return sampled, losses

    def forward_with_given_boxes(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """Test time: fill in what depends on `pred_boxes` and `pred_classes`, that is `pred_masks`."""
        if self.training or not all(image.has("pred_boxes") and image.has("pred_classes") for image in instances):
            raise AssertionError("given boxes are for test time, and need pred_boxes and pred_classes")
        return self._forward_mask(features, instances)

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Instances]) -> dict[str, Tensor] | list[Instances]:
        """Losses of the box head in training, detections otherwise."""
        pooled = self.box_pooler(_maps(features, self.box_in_features), [image.proposal_boxes for image in proposals])
        predictions = self.box_predictor(self.box_head(pooled))
        if not self.training:
            return self.box_predictor.inference(predictions, proposals)[0]
        losses = self.box_predictor.losses(predictions, proposals)
        if self.train_on_pred_boxes:
            with torch.no_grad():
                refined = self.box_predictor.predict_boxes_for_gt_classes(predictions, proposals)
            for image, boxes in zip(proposals, refined):
                image.proposal_boxes = Boxes(boxes)
        return losses

    def _forward_mask(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor] | list[Instances]:
        """Mask loss on the foreground proposals in training, instances with `pred_masks` otherwise."""
        if not self.mask_on:
            return {} if self.training else instances
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
        boxes = [image.get("proposal_boxes" if self.training else "pred_boxes") for image in instances]
        maps = _maps(features, self.mask_in_features)
        inputs = maps if self.mask_pooler is None else self.mask_pooler(maps, boxes)
        return self.mask_head(inputs, instances)


def _maps(features: dict[str, Tensor], names: list[str]) -> list[Tensor]:
    """The named maps, in that order."""
    return [features[name] for name in names]


def _required(targets: list[Instances] | None) -> list[Instances]:
    if targets is None:
        raise AssertionError("training needs the ground truth of each image")
    return targets
