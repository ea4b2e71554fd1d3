"""Average precision with a weight for every image: 1 for all is the evaluator's number, 2 is as if an image were there twice."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from eva02_det.evaluation.backends import IOU_THRESHOLDS, RECALL_LEVELS
from eva02_det.evaluation.matches import Matches

# Axes: B sets of weights, I images, K categories, T IoU thresholds, N detections, J those that are right at some threshold.

ELEMENTS_AT_ONCE = 2**23  # of [J, B]: bounds each of some eight temporary arrays to 64 MiB
SETS_AT_ONCE = 1024
FEW = 16  # sets of weights for which NumPy's accumulation is the faster one all the same
CLOSE = 1e-9  # recall levels that differ at all differ by more: a category has less than 10^7 objects
_LEVELS = np.linspace(0, 1, RECALL_LEVELS)
_STEPS = RECALL_LEVELS - 1
# levels that lie, rounded as the references round them, above the fraction that they stand for
_ROUNDED_UP = np.arange(RECALL_LEVELS) / _STEPS < _LEVELS


class WeightedAp:
    """AP of every category and IoU threshold, for many sets of whole weights at a time.

    An image with a weight of w counts as w copies of itself, one after the other.
    """

    def __init__(self, matches: Matches) -> None:
        self._images = matches.images
        ends = np.searchsorted(matches.category, np.arange(matches.categories + 1)).tolist()
        object_ends = np.searchsorted(matches.object_category, np.arange(matches.categories + 1)).tolist()
        self._categories = [
            _Category(
                image=matches.image[first:last],
                right=matches.right[:, first:last],
                ignored=matches.ignored[:, first:last],
                object_image=matches.object_image[first_object:last_object],
            )
            for (first, last), (first_object, last_object) in zip(pairwise(ends), pairwise(object_ends))
        ]

    def __call__(self, weights: NDArray[np.integer]) -> NDArray[np.float64]:
        """In percent; NaN for a category of which no object is there. weights: [B, I], none negative -> [B, T, K]."""
        if weights.shape[1] != self._images:
            raise ValueError(f"{weights.shape[1]} weights for {self._images} images")
        ap = np.full((len(weights), len(IOU_THRESHOLDS), len(self._categories)), np.nan)
        for start in range(0, len(weights), SETS_AT_ONCE):
            some = weights[start : start + SETS_AT_ONCE]
            columns = torch.from_numpy(np.ascontiguousarray(some.T, dtype=np.float32))  # whole numbers, exact below 2^24
            for row, category in enumerate(self._categories):
                if len(category.object_image):
                    ap[start : start + SETS_AT_ONCE, :, row] = category.ap(columns).T
        return 100 * ap


@dataclass(frozen=True)
class _Category:
    """The detections of a category by falling score, and the images of its objects; fields as in Matches."""

    image: NDArray[np.int32]
    right: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    object_image: NDArray[np.int32]

    def ap(self, columns: torch.Tensor) -> NDArray[np.float64]:
        """columns: [I, B] -> [T, B], a fraction; NaN without an object."""
        useful = np.flatnonzero(self.right.any(axis=0))
        at_once = max(1, ELEMENTS_AT_ONCE // max(len(useful), 1))
        return np.concatenate([self._of_some(part, useful) for part in columns.split(at_once, dim=1)], axis=1)

    def _of_some(self, columns: torch.Tensor, useful: NDArray[np.int64]) -> NDArray[np.float64]:
        columns = columns.contiguous()
        objects = _sums(columns, self.object_image, np.zeros(1, np.int64))[0]
        ap = np.zeros((len(self.right), len(objects)))
        ap[:, objects == 0] = np.nan
        if not len(useful):
            return ap
        rounded = np.flatnonzero((np.outer(np.flatnonzero(_ROUNDED_UP), objects) % _STEPS == 0).any(axis=0))
        shown = _running(columns, self.image, useful)  # detections down to each useful one
        for threshold in np.flatnonzero(self.right.any(axis=1)).tolist():
            if threshold and _same(self.right, threshold) and _same(self.ignored, threshold):
                ap[threshold] = ap[threshold - 1]
                continue
            places = np.flatnonzero(self.right[threshold])
            count = shown[np.searchsorted(useful, places)]
            left_out = np.flatnonzero(self.ignored[threshold, : places[-1]])
            if len(left_out):
                count -= _running(columns, self.image[left_out], np.searchsorted(left_out, places) - 1)
            hits = _cumulated(columns[torch.from_numpy(self.image[places])].double().numpy(), np.add)
            ap[threshold] += _interpolated(hits, count, np.maximum(objects, 1), rounded)
        return ap


def _same(flags: NDArray[np.bool_], threshold: int) -> bool:
    """Whether nothing changes from the threshold below, as is common in a small category."""
    return np.array_equal(flags[threshold], flags[threshold - 1])


def _interpolated(
    hits: NDArray[np.float64], count: NDArray[np.float64], objects: NDArray[np.float64], rounded: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean of the interpolated precision over the recall levels. hits, count: [J, B] right ones and all, down to each right one.

    Only where a detection is right does recall grow, and precision is highest, so no other place has a say.
    objects: [B]. rounded: sets whose recall can be equal to a level that is rounded up. -> [B]
    """
    recall = hits * (_STEPS / objects)  # in steps from one level to the next
    reached = np.floor(recall + CLOSE)
    if len(rounded):
        whole = np.rint(recall[:, rounded])
        reached[:, rounded] -= (np.abs(recall[:, rounded] - whole) < CLOSE) & _ROUNDED_UP[whole.astype(np.int64)]
    precision = np.divide(hits, count + np.spacing(1), out=hits)
    _cumulated(precision[::-1], np.maximum)
    reached[1:] -= reached[:-1].copy()
    reached[0] += 1  # the level of no recall at all
    return np.einsum("jb,jb->b", precision, reached) / RECALL_LEVELS


def _running(columns: torch.Tensor, image: NDArray[np.integer], places: NDArray[np.integer]) -> NDArray[np.float64]:
    """Sums of the weights of a row of images up to and including some places, -1 for none. places: [J] ascending -> [J, B]."""
    starts = np.concatenate([[0], places[:-1] + 1])
    return _cumulated(_sums(columns, image[: places[-1] + 1], starts), np.add)


def _sums(columns: torch.Tensor, image: NDArray[np.integer], starts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Sums of the weights of images in parts. columns: [I, B]; image: [N]; starts: [J] of the parts -> [J, B]."""
    indices, offsets = torch.from_numpy(image.astype(np.int64)), torch.from_numpy(starts.astype(np.int64))
    return torch.nn.functional.embedding_bag(indices, columns, offsets, mode="sum").double().numpy()


def _cumulated(rows: NDArray[np.float64], operation: np.ufunc) -> NDArray[np.float64]:
    """In place, row after row: NumPy's own accumulation goes down each column by itself, which takes a hundred times as long."""
    if rows.shape[1] < FEW:
        return operation.accumulate(rows, axis=0, out=rows)
    for before, row in pairwise(rows):
        operation(before, row, out=row)
    return rows
