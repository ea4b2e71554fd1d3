"""Soft non-maximum suppression in tensors, on any device; all classes, and all clusters inside a class, advance together.

Axes: N candidates, E edges (pairs of candidates of one class of which the better one lowers the score of the other), M survivors.
"""

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

METHODS = ("linear", "gaussian", "naive")
PAIRS_AT_ONCE = {"cpu": 1 << 15, "cuda": 1 << 22}  # what a core's cache holds; about 400 MB of temporaries
CLASS_SPACING = 1000.0  # wider than the range of ln(area) in float32 (-69 .. 88) plus WHOLE_CLASS
WHOLE_CLASS = 500.0
REACH_SLACK = 1e-4  # of ln(area): far above the rounding of areas and IoU, far below anything that costs time


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor | None = None,
    *,
    method: str = "linear",
    iou_threshold: float = 0.6,
    sigma: float = 0.5,
    min_score: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    """Pick the best candidate, lower the scores of those that overlap it, repeat.

    Args:
        boxes: [N, 4] as x0, y0, x1, y1.
        scores: [N], finite.
        classes: [N] class ids; boxes of different classes never meet. None: all boxes meet.
        method: what an overlap u multiplies a score with. "linear": 1 - u where u >= iou_threshold; "naive": 0 there;
            "gaussian": exp(-u^2 / sigma) everywhere.
        min_score: a candidate that falls below is dropped. The very first pick is not tested, so that a call in which
            every candidate is below returns the best of them. A pair without area has no overlap.

    Returns:
        Rows of the survivors [M] and their scores [M], best first; among equal scores the lower row comes first.

    Nothing is approximated. A candidate whose score is the highest among those it overlaps can be neither lowered nor
    overtaken any more, so all such local winners are taken in one round; the number of rounds is the longest chain of
    overlaps, not the number of candidates.
    """
    live = _live_rows(scores, min_score)
    settled = scores[live].to(torch.promote_types(scores.dtype, torch.float32))
    if len(live) > 1:
        groups = torch.zeros_like(live) if classes is None else classes[live]
        weigh = _decay(method, iou_threshold, sigma)
        reach = WHOLE_CLASS if method == "gaussian" else min(REACH_SLACK - math.log(iou_threshold), WHOLE_CLASS)
        settled = _settle(settled, *_edges(boxes[live].to(settled.dtype), groups, reach, weigh), min_score)
        alive = settled >= min_score
        live, settled = live[alive], settled[alive]
    settled, order = settled.sort(descending=True, stable=True)
    return live[order], settled.to(scores.dtype)


def _live_rows(scores: Tensor, min_score: float) -> Tensor:
    """Rows that can survive: those at or above the minimum, or else the first of the best. [N] -> [n]."""
    live = (scores >= min_score).nonzero().squeeze(1)
    if len(live) or not len(scores):
        return live
    return (scores == scores.max()).nonzero().squeeze(1)[:1]


def _decay(method: str, iou_threshold: float, sigma: float) -> Callable[[Tensor], Tensor]:
    """The function from overlap to factor; 1 leaves a score alone."""
    if method == "gaussian":
        return lambda iou: torch.exp(iou.square().neg() / sigma)
    if method == "linear":
        return lambda iou: torch.where(iou >= iou_threshold, 1 - iou, 1)
    if method == "naive":
        return lambda iou: 1 - (iou >= iou_threshold).to(iou.dtype)
    raise ValueError(f"soft-NMS method {method!r} is none of {', '.join(METHODS)}")


def _edges(boxes: Tensor, classes: Tensor, reach: float, weigh: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of one class whose factor is not 1: rows [E], rows [E], factors [E].

    Two boxes overlap by at most the ratio of their areas, so in the order of (class, area) a box need only be compared
    with those that follow within `reach` = ln(1 / threshold). Different classes lie further apart than any reach.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    place = classes.double() * CLASS_SPACING + area.double().clamp(min=1e-30).log()
    place, order = place.sort()
    follow = torch.searchsorted(place, place + reach, right=True) - torch.arange(1, len(order) + 1, device=order.device)
    boxes, area = boxes[order], area[order]
    found = []
    for first, second in _pairs(follow):
        factor = weigh(_paired_iou(boxes, area, first, second))
        matters = (factor != 1).nonzero().squeeze(1)
        found.append((order[first[matters]], order[second[matters]], factor[matters]))
    first, second, factor = (torch.cat(part) for part in zip(*found))
    return first, second, factor


def _pairs(follow: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """All (i, i + 1) ... (i, i + follow[i]), in portions of bounded size."""
    until, portion = follow.cumsum(0), PAIRS_AT_ONCE.get(follow.device.type, 1 << 20)
    cuts = torch.searchsorted(until, portion * torch.arange(1, int(until[-1]) // portion + 1, device=follow.device))
    bounds = [0, *cuts.tolist(), len(follow)]
    for start, stop in itertools.pairwise(bounds):
        count = follow[start:stop]
        row = torch.arange(start, stop, device=follow.device)
        first = torch.repeat_interleave(row, count)
        before = torch.repeat_interleave(count.cumsum(0) - count - row - 1, count)
        yield first, torch.arange(len(first), device=follow.device) - before


def _paired_iou(boxes: Tensor, area: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Overlap of box first[e] with box second[e]; 0 where neither has an area. -> [E]."""
    # index_select: on the CPU five times as fast here as boxes[first]
    one, other = boxes.index_select(0, first), boxes.index_select(0, second)
    size = torch.minimum(one[:, 2:], other[:, 2:]).sub_(torch.maximum(one[:, :2], other[:, :2])).clamp_(min=0)
    common = size[:, 0] * size[:, 1]
    return (common / (area.index_select(0, first) + area.index_select(0, second) - common)).nan_to_num_(0.0)


def _settle(scores: Tensor, first: Tensor, second: Tensor, factor: Tensor, min_score: float) -> Tensor:
    """Scores after all decay. [n], and three times [E] -> [n]; a score below the minimum marks a dropped candidate."""
    while len(first):
        ahead, behind = scores.index_select(0, first), scores.index_select(0, second)
        swap = (ahead < behind) | ((ahead == behind) & (first > second))
        winner, loser = torch.where(swap, second, first), torch.where(swap, first, second)
        undecided = torch.zeros_like(scores, dtype=torch.bool).index_fill_(0, loser, True)
        picked = (~undecided.index_select(0, winner)).nonzero().squeeze(1)
        scores = scores.scatter_reduce(0, loser[picked], factor[picked], "prod")
        undecided &= scores >= min_score
        still_open = (undecided.index_select(0, winner) & undecided.index_select(0, loser)).nonzero().squeeze(1)
        first, second, factor = winner[still_open], loser[still_open], factor[still_open]
    return scores
