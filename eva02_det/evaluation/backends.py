"""Who matches detections with the truth and accumulates: one interface, a fast library, and the references beside it."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eva02_det.evaluation.rules import Detections, of_categories
from eva02_det.evaluation.truth import Truth
from eva02_det.utils.errors import UserError

# Axes of the tables: T IoU thresholds, R recall levels, K categories, A areas, M detection limits.
# To a library, image i is i + 1, category k is k + 1: numbers in the order of the file's ids, whatever these are.

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = 101
DEFAULT = "hotcoco"

AreaRanges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Tables:
    """What AP and AR are means of; -1 where there is no ground truth."""

    precision: NDArray[np.float64]  # [T, R, K, A, M]
    recall: NDArray[np.float64]  # [T, K, A, M]
    areas: tuple[str, ...]  # names of A
    limits: tuple[int, ...]  # M


def match(truth: Truth, found: Detections, *, limits: tuple[int, ...], areas: AreaRanges, backend: str = DEFAULT) -> Tables:
    """limits: detections per image and category, ascending; for a federated truth the one limit that was applied already."""
    task = "bbox" if found.masks is None else "segm"
    with_objects = np.unique(truth.category)  # the others' entries are -1 in any case
    shape = (len(IOU_THRESHOLDS), len(truth.category_ids), len(areas), len(limits))
    tables = Tables(-np.ones((shape[0], RECALL_LEVELS, *shape[1:])), -np.ones(shape), tuple(areas), limits)
    if not len(with_objects):
        return tables
    part = truth.of_categories(with_objects)
    masks = part.run_lengths() if task == "segm" else None
    function = backends(truth.federated)[backend]
    per_group = (max(len(found), 1),) if truth.federated else limits
    precision, recall = function(part, of_categories(found, with_objects), masks, task, per_group, areas)
    tables.precision[:, :, with_objects], tables.recall[:, with_objects] = precision, recall
    return tables


def backends(federated: bool) -> dict[str, Callable[..., tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    """By name, the default first: for LVIS where federated, else for COCO."""
    from eva02_det.evaluation import references

    if federated:
        return {DEFAULT: _hotcoco, "pycocotools": references.pycocotools, "lvis": references.lvis}
    return {DEFAULT: _hotcoco, "faster-coco-eval": references.faster_coco_eval, "pycocotools": references.pycocotools}


def require_backend(name: str, federated: bool) -> None:
    """UserError where there is no such backend or its package is absent."""
    known = backends(federated)
    benchmark = "LVIS" if federated else "COCO"
    if name not in known:
        raise UserError(f"{benchmark} evaluation has no backend {name!r}; choose one of {', '.join(known)}")
    if importlib.util.find_spec(name.replace("-", "_")) is None:
        others = ", ".join(other for other in known if other != name)
        raise UserError(f"backend={name!r} needs `pip install {name}`; or choose one of {others}")


def _hotcoco(
    truth: Truth,
    found: Detections,
    masks: list[dict[str, Any]] | None,
    task: str,
    limits: tuple[int, ...],
    areas: AreaRanges,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns go in as columns; masks one by one, but only of those detections that count."""
    from hotcoco import COCO, COCOeval

    known = COCO.from_arrays(
        image_entries(truth),
        category_entries(truth),
        truth.image + 1,
        truth.category + 1,
        truth.boxes,
        ids=np.arange(1, len(truth.image) + 1),
        area=truth.areas,
        iscrowd=truth.crowd.astype(np.int64),
        segmentation=masks,
    )
    rows = np.column_stack([found.image + 1.0, found.boxes, found.scores, found.category + 1.0])
    results = known.load_res(rows, segmentation=mask_entries(truth, found))
    if len(found):
        results.update_anns(ids=np.arange(1, len(found) + 1), area=found.areas)
    if truth.federated:  # the limit per image has been applied; without this it would be applied again, at 300
        results = results.cap_detections_per_image(None)
    evaluation = COCOeval(known, results, task, lvis_style=truth.federated)
    evaluation.params.max_dets = list(limits)
    evaluation.params.area_rng = [list(bounds) for bounds in areas.values()]
    evaluation.params.area_rng_lbl = [name or "all" for name in areas]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def image_entries(truth: Truth) -> list[dict[str, Any]]:
    """The images as libraries take them."""
    entries = [
        {"id": row + 1, "height": height, "width": width, "file_name": str(row)}
        for row, (height, width) in enumerate(truth.sizes.tolist())
    ]
    if truth.absent is None or truth.incomplete is None:
        return entries
    for key, pairs in (("neg_category_ids", truth.absent), ("not_exhaustive_category_ids", truth.incomplete)):
        image, category = np.divmod(pairs, len(truth.category_ids))
        ends = np.searchsorted(image, np.arange(len(entries)), side="right")
        for entry, part in zip(entries, np.split(category + 1, ends[:-1])):
            entry[key] = part.tolist()
    return entries


def category_entries(truth: Truth) -> list[dict[str, Any]]:
    """The categories as libraries take them. LVIS's need a frequency, though what is read here does not depend on it."""
    entries: list[dict[str, Any]] = [{"id": row + 1, "name": name} for row, name in enumerate(truth.names)]
    return [{**entry, "frequency": "f"} for entry in entries] if truth.federated else entries


def mask_entries(truth: Truth, found: Detections) -> list[dict[str, Any]] | None:
    """The masks of the detections as libraries take them."""
    if found.masks is None:
        return None
    sizes = truth.sizes.tolist()
    return [{"size": sizes[image], "counts": found.masks[row]} for row, image in enumerate(found.image.tolist())]
