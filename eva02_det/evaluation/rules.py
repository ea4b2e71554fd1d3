"""How COCO and LVIS choose the detections that count, before any of them is matched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eva02_det.evaluation import runs
from eva02_det.evaluation.predictions import Predictions
from eva02_det.evaluation.runs import Runs, no_masks
from eva02_det.evaluation.truth import LARGEST_AREA, Truth
from eva02_det.utils.errors import UserError

# Axes: N detections, G groups of them.

TASKS = ("bbox", "segm")
BENCHMARKS = ("coco", "lvis")
STANDARD_SIDES_PX = (0, 32, 96)
FINE_SIDES_PX = (0, 8, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256)  # the release's option of 13 bins
AREA_BINS = ("standard", "fine")


@dataclass(frozen=True)
class Detections:
    """The detections of a task, each on rows of the truth."""

    image: NDArray[np.int32]  # [N]
    category: NDArray[np.int32]  # [N]
    boxes: NDArray[np.float64]  # [N, 4] x, y, width, height
    scores: NDArray[np.float64]  # [N] those that rank this task
    areas: NDArray[np.float64]  # [N] of the box, or of the mask where masks are evaluated
    masks: Runs | None  # where masks are evaluated

    def __len__(self) -> int:
        return len(self.scores)


def area_ranges(bins: str) -> dict[str, tuple[float, float]]:
    """{suffix of the metric: smallest and largest area}, all sizes first. The ends belong to a range, as in the references."""
    ranges = {"": (0.0, LARGEST_AREA)} | _between(STANDARD_SIDES_PX, ("s", "m", "l"))
    if bins == "fine":
        names = [f"{low}-{high}" for low, high in zip(FINE_SIDES_PX, [*FINE_SIDES_PX[1:], ""])]
        ranges |= _between(FINE_SIDES_PX, names)
    return ranges


def detections(
    predictions: Predictions, truth: Truth, task: str, *, limit: int, labels: NDArray[np.int64], box_areas: bool = False
) -> Detections:
    """What of the predictions counts in a task.

    limit: COCO keeps so many per image and category; LVIS (a truth that is federated) so many per image, and of these what
    is of a category that was looked for in the image. labels: class index -> row of the truth's categories. box_areas: the
    area of a mask's box in place of the mask's. Images that the truth does not hold are left out.
    """
    image = truth.image_rows(predictions.image_ids)[predictions.image]
    category = labels[predictions.classes]
    if task == "segm":
        _require_sizes(predictions, truth)
    calibrated = task == "segm" and predictions.mask_scores is not None
    scores = np.asarray(predictions.mask_scores if calibrated else predictions.scores)
    masks = predictions.masks or no_masks(len(predictions))
    candidates = image >= 0
    if task == "segm":
        candidates &= masks.sizes > 0
    rows = np.flatnonzero(candidates)
    groups = image[rows] if truth.federated else truth.pairs(image[rows], category[rows])
    rows = rows[best(groups, scores[rows], limit)]
    if truth.federated:
        rows = rows[_was_looked_for(truth, image[rows], category[rows])]
    boxes = predictions.boxes[rows].astype(np.float64)
    masks = masks.take(rows)
    areas = masks.areas().astype(np.float64) if task == "segm" and not box_areas else boxes[:, 2] * boxes[:, 3]
    found = Detections(
        image=image[rows].astype(np.int32),
        category=category[rows].astype(np.int32),
        boxes=boxes,
        scores=scores[rows].astype(np.float64),
        areas=areas,
        masks=masks if task == "segm" else None,
    )
    return taken(found, np.flatnonzero(areas > 0)) if truth.federated else found  # as LVIS's reference


def best(groups: NDArray[np.integer], scores: NDArray[np.floating], limit: int) -> NDArray[np.int64]:
    """Rows of the `limit` highest scores of each group, ascending; of equal scores those that come first."""
    if not len(groups):
        return np.zeros(0, np.int64)
    order = np.lexsort((-scores, groups))
    ordered = groups[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    return np.sort(order[rank < limit])


def join(parts: Sequence[Detections]) -> Detections:
    """All detections, those of an image together as they were; ordered by image."""
    masks = [part.masks for part in parts if part.masks is not None]
    together = Detections(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("image", "category", "boxes", "scores", "areas")),
        masks=runs.join(masks) if masks else None,
    )
    in_order = (np.diff(together.image) >= 0).all()
    return together if in_order else taken(together, np.argsort(together.image, kind="stable"))


def of_categories(found: Detections, rows: NDArray[np.integer]) -> Detections:
    """The detections of some categories, on their rows among these. rows: ascending."""
    place = np.minimum(np.searchsorted(rows, found.category), len(rows) - 1)
    kept = np.flatnonzero(rows[place] == found.category)
    return replace(taken(found, kept), category=place[kept].astype(np.int32))


def label_rows(truth: Truth, category_ids: Mapping[int, int] | None) -> NDArray[np.int64]:
    """Class index -> row of the truth's categories. category_ids: class index -> category id; None: ascending ids."""
    if category_ids is None:
        return np.arange(len(truth.category_ids))
    known = {category: row for row, category in enumerate(truth.category_ids.tolist())}
    strange = sorted(set(category_ids.values()) - known.keys())
    if strange:
        raise UserError(f"the classes of the data set include category {strange[0]}, which its annotation file does not have")
    return np.array([known[category_ids[label]] for label in range(len(category_ids))], np.int64)


def require_labels(predictions: Predictions, classes: int, dataset: str) -> None:
    """UserError where the detector knows more classes than the data set, or a number is none."""
    highest = int(predictions.classes.max(initial=-1))
    if highest >= classes:
        raise UserError(
            f"the model predicts class {highest} but {dataset} has {classes} classes; set the model's num_classes to it"
        )
    for name, values in (("boxes", predictions.boxes), ("scores", predictions.scores), ("mask scores", predictions.mask_scores)):
        if values is not None and not np.isfinite(values).all():
            raise UserError(f"{int((~np.isfinite(values)).sum())} numbers of the {name} are not finite; check the weights")


def _require_sizes(predictions: Predictions, truth: Truth) -> None:
    """UserError where the masks of an image are not of the size that the annotations state."""
    rows = truth.image_rows(predictions.image_ids)
    stated = truth.sizes[rows]
    differ = (rows >= 0) & (predictions.sizes != stated).any(axis=1) & (predictions.sizes > 0).all(axis=1)
    for row in np.flatnonzero(differ)[:1]:
        height, width = predictions.sizes[row].tolist()
        raise UserError(
            f"the masks of image {predictions.image_ids[row]} are {width} x {height} but the annotations say "
            f"{stated[row][1]} x {stated[row][0]} (width x height); put the right image there, or correct the annotations"
        )


def _between(sides: Sequence[int], names: Sequence[str]) -> dict[str, tuple[float, float]]:
    areas = [float(side**2) for side in sides] + [LARGEST_AREA]
    return {name: (low, high) for name, low, high in zip(names, areas, areas[1:])}


def _was_looked_for(truth: Truth, image: NDArray[np.integer], category: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whether one knows if the category is in the image: it is annotated there, or is stated to be absent."""
    known = np.union1d(truth.pairs(truth.image, truth.category), truth.absent)
    return np.isin(truth.pairs(image, category), known)


def taken(found: Detections, rows: NDArray[np.integer]) -> Detections:
    """These detections, in this order. rows: [N'] of the detections."""
    masks = None if found.masks is None else found.masks.take(rows)
    return Detections(found.image[rows], found.category[rows], found.boxes[rows], found.scores[rows], found.areas[rows], masks)
