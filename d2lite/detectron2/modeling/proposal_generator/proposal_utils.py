"""From scored boxes to proposals.

Axes: B images, R boxes of a level, K boxes kept of a level.
"""

from __future__ import annotations

import math

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor

# objectness of a ground-truth box among proposals: the logit of a probability of almost 1
GT_LOGIT = math.log((1.0 - 1e-10) / (1.0 - (1.0 - 1e-10)))


def find_top_rpn_proposals(
    proposals: list[Tensor],
    pred_objectness_logits: list[Tensor],
    image_sizes: list[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """The best proposals of each image, by falling score: fields `proposal_boxes` and `objectness_logits`.

    `proposals` are [B, R, 4] and the logits [B, R], one pair a level. The `pre_nms_topk` best of each level are clipped
    to the image, those with a side of `min_box_size` or less are dropped, NMS runs within a level, and
    `post_nms_topk` of an image remain. Rows that are not finite are dropped at test time and an error in training.
    """
    best = [_best(boxes, logits, pre_nms_topk) for boxes, logits in zip(proposals, pred_objectness_logits, strict=True)]
    boxes, scores = (torch.cat(parts, dim=1) for parts in zip(*best, strict=True))
    sizes = [logits.shape[1] for _, logits in best]
    levels = torch.cat([torch.full((size,), level, device=boxes.device) for level, size in enumerate(sizes)])
    results = []
    for rows, logits, image_size in zip(boxes, scores, image_sizes, strict=True):
        sane = _finite_rows(rows, logits, training)
        candidates = Instances(image_size, proposal_boxes=Boxes(rows), objectness_logits=logits, level=levels)
        results.append(_suppress(candidates if sane is None else candidates[sane], nms_thresh, post_nms_topk, min_box_size))
    return results


def _best(boxes: Tensor, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest scores of a level and their boxes, [B, R, 4], [B, R] -> [B, K, 4], [B, K]."""
    values, places = logits.topk(min(count, logits.shape[1]), dim=1)
    return boxes.gather(1, places[..., None].expand(-1, -1, boxes.shape[-1])), values


def _finite_rows(boxes: Tensor, logits: Tensor, training: bool) -> Tensor | None:
    """Which rows hold only finite numbers, [R] bool; None when all do."""
    finite = boxes.isfinite().all(dim=1) & logits.isfinite()
    if finite.all():
        return None
    if training:
        raise FloatingPointError("the region proposal network predicts NaN or infinite numbers: the training has diverged")
    return finite


def _suppress(candidates: Instances, nms_thresh: float, count: int, min_box_size: float) -> Instances:
    """Clip, drop small boxes, suppress duplicates within a level and keep the first `count`."""
    candidates.proposal_boxes.clip(candidates.image_size)
    large = candidates[candidates.proposal_boxes.nonempty(threshold=min_box_size)]
    survivors = batched_nms(large.proposal_boxes.tensor, large.objectness_logits, large.level, nms_thresh)
    chosen = large[survivors[:count]]
    chosen.remove("level")
    return chosen


def add_ground_truth_to_proposals(gt: list[Instances] | list[Boxes], proposals: list[Instances]) -> list[Instances]:
    """Proposals followed by the ground-truth boxes of the same image, so that early training has positives."""
    if len(gt) != len(proposals):
        raise AssertionError(f"ground truth of {len(gt)} images for proposals of {len(proposals)}")
    return [_with_ground_truth(truth, known) for truth, known in zip(gt, proposals)]


def _with_ground_truth(truth: Instances | Boxes, known: Instances) -> Instances:
    boxes = truth if isinstance(truth, Boxes) else truth.gt_boxes
    sure = boxes.tensor.new_full((len(boxes),), GT_LOGIT)
    return Instances.cat([known, Instances(known.image_size, proposal_boxes=boxes, objectness_logits=sure)])
