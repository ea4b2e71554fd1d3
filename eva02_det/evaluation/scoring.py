"""Scores predictions against the truth: which images, which tasks, the numbers."""

import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eva02_det.evaluation import outcome
from eva02_det.evaluation.backends import match, require_backend
from eva02_det.evaluation.metrics import Metrics, class_ap, summary
from eva02_det.evaluation.outcome import Outcome
from eva02_det.evaluation.predictions import Predictions
from eva02_det.evaluation.rules import TASKS, Detections, area_ranges, detections, join, label_rows, require_labels
from eva02_det.evaluation.shards import Description
from eva02_det.evaluation.truth import Truth, read_truth
from eva02_det.utils.errors import UserError

log = logging.getLogger(__name__)


class Parts(Protocol):
    """Predictions in parts that may be gone through more than once; an image is in one part alone."""

    with_masks: bool

    def __iter__(self) -> Any: ...

    def image_ids(self) -> NDArray[Any]:
        """Ids of all images, those without detections too."""


class InMemory(list[Predictions]):
    """Parts that were never written."""

    @property
    def with_masks(self) -> bool:
        """Whether the detector makes masks."""
        return any(part.masks is not None for part in self)

    def image_ids(self) -> NDArray[Any]:
        """As in `Parts`."""
        return np.concatenate([part.image_ids for part in self]) if self else np.zeros(0, np.int64)


def score(description: Description, parts: Parts, folder: str | Path | None = None) -> dict[str, Metrics]:
    """{task: metrics}; {} where there is no ground truth. folder: where the outcome is written as well."""
    started = time.perf_counter()
    federated = description.benchmark == "lvis"
    require_backend(description.backend, federated)
    wants_masks = "segm" in (description.tasks or TASKS) and parts.with_masks
    truth = read_truth(description.annotation_file, federated=federated, masks=wants_masks)
    seen = parts.image_ids()
    if folder and description.write_results:
        categories = description.category_ids or truth.category_ids.tolist()
        outcome.write_results(folder, _checked(parts, description, len(categories)), dict(enumerate(categories)))
    if not len(seen):
        log.warning("no image of %s was evaluated", description.dataset)
    if not truth.annotated:
        where = f"the predictions are in {folder}" if folder else "set output_dir to keep the predictions"
        log.warning("%s has no ground truth (a test set), so there is no AP; %s", description.dataset, where)
    outcomes: list[Outcome] = []
    if len(seen) and truth.annotated:
        truth = chosen(truth, seen, description)
        outcomes = [_outcome(description, truth, task, found) for task, found in _found(description, truth, parts)]
    if folder:
        counts = {"images": len(truth.image_ids), "images_evaluated": len(seen), "seconds": time.perf_counter() - started}
        outcome.write_outcomes(folder, description, outcomes, counts)
    return outcome.returned(description, outcomes)


def chosen(truth: Truth, seen: NDArray[Any], description: Description) -> Truth:
    """The images that count. UserError for images that the annotation file has not; a warning for images without predictions."""
    rows = truth.image_rows(seen)
    if (rows < 0).any():
        raise UserError(
            f"{int((rows < 0).sum())} of {len(seen)} evaluated images are not in {description.annotation_file} (the first: "
            f"{seen[rows < 0][0]}); score with the annotations that the predictions were made for"
        )
    if description.image_ids is not None:
        wanted = truth.image_rows(np.unique(description.image_ids))
        if (wanted < 0).any():
            strange = np.unique(description.image_ids)[wanted < 0]
            raise UserError(f"{len(strange)} of image_ids are not in {description.annotation_file} (the first: {strange[0]})")
    else:
        wanted = np.arange(len(truth.image_ids))
    if description.seen_only:
        wanted = np.intersect1d(wanted, rows)
    elif left_out := len(np.setdiff1d(wanted, rows)):
        log.warning(
            "%d of %d images of %s are not among the predictions; they count as images in which nothing was found",
            left_out,
            len(wanted),
            description.dataset,
        )
    return truth if len(wanted) == len(truth.image_ids) else truth.of_images(wanted)


def _found(description: Description, truth: Truth, parts: Parts) -> Iterable[tuple[str, Detections]]:
    """The detections that count, by task. Each part is reduced to them before the next is read."""
    both = parts.with_masks and truth.with_masks
    tasks: Sequence[str] = description.tasks or (TASKS if both else TASKS[:1])
    if "segm" in tasks and not truth.with_masks:
        raise UserError("the ground truth has no masks, so only tasks=['bbox'] can be evaluated")
    if "segm" in tasks and not parts.with_masks:
        raise UserError("the predictions have no masks, so only tasks=['bbox'] can be evaluated")
    categories = None if description.category_ids is None else dict(enumerate(description.category_ids))
    labels = label_rows(truth, categories)
    limit = description.max_detections[-1]
    pieces: dict[str, list[Detections]] = {task: [] for task in tasks}
    for part in _checked(parts, description, len(labels)):
        for task in tasks:
            pieces[task].append(detections(part, truth, task, limit=limit, labels=labels))
    for task in tasks:
        yield task, join(pieces.pop(task))


def _checked(parts: Parts, description: Description, classes: int) -> Iterable[Predictions]:
    """The parts, checked."""
    for part in parts:
        require_labels(part, classes, description.dataset)
        yield part


def _outcome(description: Description, truth: Truth, task: str, found: Detections) -> Outcome:
    tables = match(
        truth,
        found,
        limits=tuple(description.max_detections),
        areas=area_ranges(description.area_bins),
        backend=description.backend,
    )
    result = Outcome(task, summary(tables, truth), dict(zip(truth.names, class_ap(tables).tolist())))
    outcome.log_tables(description, result)
    return result
