"""Average precision with a weight for every image: 1 for all is the evaluator's number, 2 is as if an image were there twice."""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from eva02_det.evaluation.backends import IOU_THRESHOLDS, RECALL_LEVELS
from eva02_det.evaluation.matches import Matches

# Axes: B sets of weights, I images, K categories, T IoU thresholds, N detections, J those that are right at some threshold.

ELEMENTS_AT_ONCE = 2**23  # of [J, B]: bounds each of some eight temporary arrays to 64 MiB
MOST_SETS_AT_ONCE = 1024
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
        self.matches = matches
        categories = np.arange(matches.categories + 1)
        self._bounds = np.searchsorted(matches.category, categories)
        self._object_bounds = np.searchsorted(matches.object_category, categories)
        useful = matches.category[matches.right.any(axis=0)]
        longest = int(np.bincount(useful, minlength=1).max())
        self._at_once = int(np.clip(ELEMENTS_AT_ONCE // max(longest, 1), 1, MOST_SETS_AT_ONCE))

    def __call__(self, weights: NDArray[np.integer]) -> NDArray[np.float64]:
        """In percent; NaN for a category of which no object is there. weights: [B, I], none negative -> [B, T, K]."""
        ap = np.full((len(weights), len(IOU_THRESHOLDS), self.matches.categories), np.nan)
        for start in range(0, len(weights), self._at_once):
            some = weights[start : start + self._at_once]
            columns = torch.from_numpy(np.ascontiguousarray(some.T, dtype=np.float32))  # whole numbers, exact below 2^24
            self._fill(ap[start : start + self._at_once], columns)
        return 100 * ap

    def _fill(self, ap: NDArray[np.float64], columns: torch.Tensor) -> None:
        """ap: [B, T, K] to write to. columns: [I, B]."""
        for category, (first, last) in enumerate(pairwise(self._object_bounds.tolist())):
            if first == last:
                continue
            objects = _sums(columns, self.matches.object_image[first:last], np.zeros(1, np.int64))[0]
            there = objects > 0
            found = self._of_category(category, columns, np.maximum(objects, 1))
            ap[there, :, category] = found[:, there].T

    def _of_category(self, category: int, columns: torch.Tensor, objects: NDArray[np.float64]) -> NDArray[np.float64]:
        """objects: [B] -> [T, B], fractions."""
        rows = slice(*self._bounds[category : category + 2].tolist())
        image, right, ignored = self.matches.image[rows], self.matches.right[:, rows], self.matches.ignored[:, rows]
        useful = np.flatnonzero(right.any(axis=0))
        ap = np.zeros((len(right), columns.shape[1]))
        if not len(useful):
            return ap
        shown = _running(columns, image[: useful[-1] + 1], useful)  # detections down to each useful one
        rounded = np.flatnonzero((np.outer(np.flatnonzero(_ROUNDED_UP), objects) % _STEPS == 0).any(axis=0))
        for threshold in np.flatnonzero(right.any(axis=1)).tolist():
            if threshold and _same(right, threshold) and _same(ignored, threshold):
                ap[threshold] = ap[threshold - 1]
                continue
            places = np.flatnonzero(right[threshold])
            count = shown[np.searchsorted(useful, places)]
            left_out = np.flatnonzero(ignored[threshold, : places[-1]])
            if len(left_out):
                count -= _running(columns, image[left_out], np.searchsorted(left_out, places) - 1)
            hits = columns[torch.from_numpy(image[places])].double().numpy()
            ap[threshold] = _interpolated(_cumulated(hits, np.add), count, objects, rounded)
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
