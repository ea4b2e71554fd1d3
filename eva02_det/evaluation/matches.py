"""Which detections are right, image by image: found once, they can be counted again under any weights of the images."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from eva02_det.evaluation.backends import IOU_THRESHOLDS
from eva02_det.evaluation.rules import Detections, taken
from eva02_det.evaluation.runs import Runs
from eva02_det.evaluation.truth import LARGEST_AREA, Truth

# Axes: N detections, G objects, P pairs of a detection and an object of its image and category, T IoU thresholds.

PAIRS_AT_ONCE = 2**21  # bounds the boxes that are compared at a time to some 300 MB


@dataclass(frozen=True)
class Matches:
    """Detections by category, the highest score first (of equal scores the earlier image), and the objects to be found."""

    images: int
    categories: int
    image: NDArray[np.int32]  # [N]
    category: NDArray[np.int32]  # [N] ascending
    right: NDArray[np.bool_]  # [T, N] is the one that found an object that counts
    ignored: NDArray[np.bool_]  # [T, N] neither right nor wrong
    object_image: NDArray[np.int32]  # [G] of the objects that count, by category
    object_category: NDArray[np.int32]  # [G] ascending

    def __len__(self) -> int:
        return len(self.image)

    def of_images(self, rows: NDArray[np.integer]) -> "Matches":
        """A part of the images. rows: [I'] ascending."""
        place = np.full(self.images, -1, np.int32)
        place[rows] = np.arange(len(rows))
        kept, objects = np.flatnonzero(place[self.image] >= 0), np.flatnonzero(place[self.object_image] >= 0)
        return replace(
            self,
            images=len(rows),
            image=place[self.image[kept]],
            category=self.category[kept],
            right=self.right[:, kept],
            ignored=self.ignored[:, kept],
            object_image=place[self.object_image[objects]],
            object_category=self.object_category[objects],
        )

    def objects_of(self, images: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many objects of each category these images hold. images: [I] bool -> [K]."""
        return np.bincount(self.object_category[images[self.object_image]], minlength=self.categories)


def matches(truth: Truth, found: Detections) -> Matches:
    """Objects and detections of every size, matched as the benchmarks' references do (COCO's rules, LVIS's where federated)."""
    ignored_object = truth.crowd | (truth.areas > LARGEST_AREA)
    found = taken(found, np.lexsort((-found.scores, found.category)))
    detection, target, overlap = _overlaps(truth, found)
    hit = _greedy(truth, found, ignored_object, detection, target, overlap)  # [T, N] object or -1
    matched = hit >= 0
    on_ignored = matched & ignored_object[hit]
    unknown = found.areas > LARGEST_AREA
    if truth.incomplete is not None:
        unknown |= np.isin(truth.pairs(found.image, found.category), truth.incomplete)
    counted = np.flatnonzero(~ignored_object)
    counted = counted[np.argsort(truth.category[counted], kind="stable")]
    return Matches(
        images=len(truth.image_ids),
        categories=len(truth.category_ids),
        image=found.image,
        category=found.category,
        right=matched & ~on_ignored,
        ignored=on_ignored | (~matched & unknown),
        object_image=truth.image[counted],
        object_category=truth.category[counted],
    )


def _overlaps(truth: Truth, found: Detections) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Detection, object and IoU [P] of all pairs that are as close as the lowest threshold asks for."""
    groups = truth.pairs(truth.image, truth.category)
    by_group = np.argsort(groups, kind="stable")
    of_found = truth.pairs(found.image, found.category)
    first = np.searchsorted(groups[by_group], of_found, side="left")
    counts = np.searchsorted(groups[by_group], of_found, side="right") - first
    rows = np.flatnonzero(counts)
    rows = rows[np.argsort(of_found[rows], kind="stable")]  # detections of a group together, for the masks
    masks = truth.run_lengths() if found.masks is not None else None
    kept = []
    for some in _pieces(rows, counts):
        detection = np.repeat(some, counts[some])
        step = np.arange(len(detection)) - np.repeat(np.cumsum(counts[some]) - counts[some], counts[some])
        target = by_group[first[detection] + step]
        if masks is None or found.masks is None:
            overlap = _box_iou(found.boxes[detection], truth.boxes[target], truth.crowd[target])
        else:
            overlap = _mask_iou(truth, found, found.masks, masks, detection, target)
        close = overlap >= IOU_THRESHOLDS[0]
        kept.append((detection[close], target[close], overlap[close]))
    detection, target, overlap = (np.concatenate(column) for column in zip(*kept))
    return detection, target, overlap


def _pieces(rows: NDArray[np.int64], counts: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows in parts of about PAIRS_AT_ONCE pairs; one part at least."""
    part = np.cumsum(counts[rows]) // PAIRS_AT_ONCE
    return np.split(rows, np.flatnonzero(np.diff(part)) + 1)


def _box_iou(found: NDArray[np.float64], truth: NDArray[np.float64], crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Row by row; of a crowd, the share of the detection that lies inside."""
    sides = [
        np.minimum(found[:, axis] + found[:, axis + 2], truth[:, axis] + truth[:, axis + 2])
        - np.maximum(found[:, axis], truth[:, axis])
        for axis in (0, 1)
    ]
    common = np.where((sides[0] > 0) & (sides[1] > 0), sides[0] * sides[1], 0.0)
    area = found[:, 2] * found[:, 3]
    union = np.where(crowd, area, area + truth[:, 2] * truth[:, 3] - common)
    return np.divide(common, union, out=np.zeros(len(found)), where=common > 0)


def _mask_iou(
    truth: Truth,
    found: Detections,
    found_masks: Runs,
    masks: list[dict[str, Any]],
    detection: NDArray[np.int64],
    target: NDArray[np.int64],
) -> NDArray[np.float64]:
    """As `_box_iou`, of the pairs [P] of some detections with all objects of their image and category, group by group."""
    overlap, sizes, start = np.zeros(len(target)), truth.sizes.tolist(), 0
    groups = truth.pairs(truth.image, truth.category)[target]
    for stop in np.append(np.flatnonzero(np.diff(groups)) + 1, len(groups)).tolist() if len(groups) else ():
        each = np.count_nonzero(detection[start:stop] == detection[start])  # objects of the group
        size = sizes[found.image[detection[start]]]
        entries = [{"size": size, "counts": found_masks[row]} for row in detection[start:stop:each].tolist()]
        objects = target[start : start + each]
        values = coco_mask.iou(entries, [masks[row] for row in objects.tolist()], truth.crowd[objects].astype(np.uint8).tolist())
        overlap[start:stop] = values.ravel()
        start = stop
    return overlap


def _greedy(
    truth: Truth,
    found: Detections,
    ignored: NDArray[np.bool_],
    detection: NDArray[np.int64],
    target: NDArray[np.int64],
    overlap: NDArray[np.float64],
) -> NDArray[np.int64]:
    """[T, N] the object that each detection gets, -1 for none: by falling score, the closest that is still free.

    An object that does not count is taken only where no other is free; a crowd is always free; of two that are equally close
    the one that the file lists later is taken. All groups take their turns at once, the best detection of each, then the
    second ones, and so on.
    """
    hit = np.full((len(IOU_THRESHOLDS), len(found)), -1, np.int64)
    # within a detection the best choice last; the file's order decides between equals
    order = np.lexsort((target, overlap, ~ignored[target], detection))
    detection, target, overlap = detection[order], target[order], overlap[order]
    close = overlap[:, None] >= IOU_THRESHOLDS  # [P, T]
    used = np.zeros((len(truth.image), len(IOU_THRESHOLDS)), bool)
    turn = _turns(truth.pairs(found.image, found.category), detection)
    for pairs in np.split(np.argsort(turn, kind="stable"), np.cumsum(np.bincount(turn))[:-1]) if len(turn) else ():
        free = close[pairs] & (~used[target[pairs]] | truth.crowd[target[pairs], None])
        starts = np.flatnonzero(np.diff(detection[pairs], prepend=-1))
        last = np.maximum.reduceat(np.where(free, np.arange(1, len(pairs) + 1)[:, None], 0), starts) - 1  # [those in turn, T]
        row, threshold = np.nonzero(last >= 0)
        chosen = target[pairs[last[row, threshold]]]
        hit[threshold, detection[pairs[starts[row]]]] = chosen
        used[chosen, threshold] = True
    return hit


def _turns(groups: NDArray[np.int64], detection: NDArray[np.int64]) -> NDArray[np.int64]:
    """[P] the place of each pair's detection among those of its group that have a pair. detection: ascending."""
    starts = np.flatnonzero(np.diff(detection, prepend=-1))
    group = groups[detection[starts]]
    by_group = np.argsort(group, kind="stable")  # detections are ordered by score within a category
    first = np.flatnonzero(np.diff(group[by_group], prepend=-1))
    place = np.empty(len(starts), np.int64)
    place[by_group] = np.arange(len(starts)) - np.repeat(first, np.diff(np.append(first, len(starts))))
    return np.repeat(place, np.diff(np.append(starts, len(detection))))
