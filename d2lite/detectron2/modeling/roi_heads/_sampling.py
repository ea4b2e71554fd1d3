"""Labels for proposals.

Axes: P proposals of an image, G ground truths of it.
"""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

from ..matcher import Matcher


def match_boxes(matcher: Matcher, targets: Instances, boxes: Boxes) -> tuple[Tensor, Tensor]:
    """Best ground truth and label (1, 0, -1) of each box, [P] each."""
    return matcher(pairwise_iou(targets.gt_boxes, boxes))


def classes_of(matches: Tensor, labels: Tensor, gt_classes: Tensor, background: int) -> Tensor:
    """Class of each box, [P]: that of its ground truth, `background` for label 0 or without any ground truth, -1 for -1."""
    if gt_classes.numel() == 0:
        return torch.full_like(matches, background)
    classes = gt_classes[matches]
    return classes.masked_fill(labels == 0, background).masked_fill(labels == -1, -1)


def select_foreground_proposals(proposals: list[Instances], bg_label: int) -> tuple[list[Instances], list[Tensor]]:
    """Proposals of each image whose `gt_classes` is a class (neither -1 nor `bg_label`), and the masks [P] that chose them."""
    masks = [(image.gt_classes != -1) & (image.gt_classes != bg_label) for image in proposals]
    return [image[mask.nonzero().flatten()] for image, mask in zip(proposals, masks, strict=True)], masks
