"""Region proposal network (Faster R-CNN, arXiv:1506.01497) on a feature pyramid.

Axes: B images, A anchors a cell, R anchors of an image over all levels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..box_regression import Box2BoxTransform, _dense_box_regression_loss
from ..matcher import Matcher
from ..sampling import subsample_labels
from ._rpn_head import StandardRPNHead
from .proposal_utils import find_top_rpn_proposals

__all__ = ["RPN", "StandardRPNHead"]


class RPN(nn.Module):
    """Scores anchors as object or background, refines them, and passes the best on as proposals.

    `pre_nms_topk` and `post_nms_topk` are (training, test) pairs. `batch_size_per_image` anchors, at most
    `positive_fraction` of them positive, take part in the loss. Anchors that leave the image by
    `anchor_boundary_thresh` pixels or more are ignored unless it is negative.
    """

    def __init__(
        self,
        *,
        in_features: list[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        anchor_matcher: Matcher,
        box2box_transform: Box2BoxTransform,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: float = -1.0,
        loss_weight: float | dict[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_features, self.rpn_head, self.anchor_generator = in_features, head, anchor_generator
        self.anchor_matcher, self.box2box_transform = anchor_matcher, box2box_transform
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        # looked up by `self.training`
        self.pre_nms_topk = dict(zip((True, False), pre_nms_topk, strict=True))
        self.post_nms_topk = dict(zip((True, False), post_nms_topk, strict=True))
        self.nms_thresh, self.min_box_size = nms_thresh, float(min_box_size)
        self.anchor_boundary_thresh = anchor_boundary_thresh
        if not isinstance(loss_weight, dict):
            loss_weight = dict.fromkeys(("loss_rpn_cls", "loss_rpn_loc"), loss_weight)
        self.loss_weight = loss_weight
        self.box_reg_loss_type, self.smooth_l1_beta = box_reg_loss_type, smooth_l1_beta

    def forward(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Proposals of each image (`proposal_boxes`, `objectness_logits`) and, in training, the two losses."""
        maps = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(maps)
        logits, deltas = self.rpn_head(maps)
        logits = [_flat(level, 1).squeeze(-1) for level in logits]
        deltas = [_flat(level, self.anchor_generator.box_dim) for level in deltas]
        losses: dict[str, Tensor] = {}
        if self.training:
            if gt_instances is None:
                raise AssertionError("training needs the ground truth of each image")
            labels, boxes = self.label_and_sample_anchors(anchors, gt_instances)
            losses = self.losses(anchors, logits, labels, deltas, boxes)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    def _subsample_labels(self, label: Tensor) -> Tensor:
        """Keep the labels of a random sample, set all others to -1. [R] -> the same tensor."""
        drawn = subsample_labels(label, self.batch_size_per_image, self.positive_fraction, bg_label=0)
        label.fill_(-1)
        for value, places in zip((1, 0), drawn, strict=True):
            label[places] = value
        return label

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """For each image: labels [R] (1 object, 0 background, -1 left out) and the matched ground-truth boxes [R, 4]."""
        everywhere = Boxes.cat(anchors)
        pairs = [self._label_image(everywhere, truth) for truth in gt_instances]
        return [labels for labels, _ in pairs], [boxes for _, boxes in pairs]

    def _label_image(self, anchors: Boxes, truth: Instances) -> tuple[Tensor, Tensor]:
        boxes = truth.gt_boxes
        matches, labels = self.anchor_matcher(pairwise_iou(boxes, anchors))
        if self.anchor_boundary_thresh >= 0:
            labels[~anchors.inside_box(truth.image_size, self.anchor_boundary_thresh)] = -1
        matched = boxes.tensor[matches] if len(boxes) else torch.zeros_like(anchors.tensor)
        return self._subsample_labels(labels.to(boxes.device)), matched

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """Binary cross-entropy of the sample and box regression of its positives, keys loss_rpn_cls and loss_rpn_loc.

        Both sums are divided by the nominal sample of the batch, batch_size_per_image * B, not by the anchors used.
        """
        labels = torch.stack(gt_labels)  # [B, R]
        positive, used = labels == 1, labels >= 0
        self._log_sample(positive, used)
        logits = torch.cat(pred_objectness_logits, dim=1)
        localisation = _dense_box_regression_loss(
            anchors,
            self.box2box_transform,
            pred_anchor_deltas,
            gt_boxes,
            positive,
            box_reg_loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        classification = F.binary_cross_entropy_with_logits(logits[used], positive[used].to(torch.float32), reduction="sum")
        nominal = self.batch_size_per_image * len(gt_labels)
        sums = {"loss_rpn_cls": classification, "loss_rpn_loc": localisation}
        return {name: total / nominal * self.loss_weight.get(name, 1.0) for name, total in sums.items()}

    def _log_sample(self, positive: Tensor, used: Tensor) -> None:
        """Positives and negatives an image; [B, R] bool twice."""
        num_positive, num_used = torch.stack((positive.sum(), used.sum())).tolist()
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", num_positive / len(used))
        storage.put_scalar("rpn/num_neg_anchors", (num_used - num_positive) / len(used))

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """The best refined anchors of each image; no gradient flows through them."""
        return find_top_rpn_proposals(
            self._decode_proposals(anchors, pred_anchor_deltas),
            pred_objectness_logits,
            image_sizes,
            nms_thresh=self.nms_thresh,
            pre_nms_topk=self.pre_nms_topk[self.training],
            post_nms_topk=self.post_nms_topk[self.training],
            min_box_size=self.min_box_size,
            training=self.training,
        )

    def _decode_proposals(self, anchors: list[Boxes], pred_anchor_deltas: list[Tensor]) -> list[Tensor]:
        """Refined anchors, [B, R_level, 4] a level."""
        return [self._decode_level(level.tensor, deltas) for level, deltas in zip(anchors, pred_anchor_deltas, strict=True)]

    def _decode_level(self, anchors: Tensor, deltas: Tensor) -> Tensor:
        shared = anchors.repeat(len(deltas), 1)
        return self.box2box_transform.apply_deltas(deltas.flatten(0, 1), shared).view_as(deltas)


def _flat(level: Tensor, numbers: int) -> Tensor:
    """[B, A * numbers, H, W] -> [B, H * W * A, numbers], the order of the anchors."""
    return level.unflatten(1, (-1, numbers)).movedim((1, 2), (3, 4)).flatten(1, 3)
