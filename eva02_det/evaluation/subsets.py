"""AP of one set of predictions on several subsets of the images, each scored by the benchmark's own rules."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eva02_det.evaluation.backends import DEFAULT, match, require_backend
from eva02_det.evaluation.metrics import Metrics, summary
from eva02_det.evaluation.predictions import read_results
from eva02_det.evaluation.rules import TASKS, Detections, area_ranges, detections, join, label_rows, require_labels, taken
from eva02_det.evaluation.score import USUAL_LIMITS
from eva02_det.evaluation.scoring import InMemory, Parts
from eva02_det.evaluation.shards import Shards, read_description
from eva02_det.evaluation.truth import Truth, read_truth
from eva02_det.utils.errors import UserError

ImageIds = Collection[int | str]


@dataclass(frozen=True)
class Answers:
    """What a detector found in the images of a data set: the detections that count, by task, and where it looked."""

    found: dict[str, Detections]  # in images of the truth that they were read for
    limits: tuple[int, ...]  # detections per image (LVIS) or per image and category (COCO), ascending
    seen: NDArray[np.int64] | None  # rows of the images that were evaluated; None: a file of results does not tell


def score_subsets(
    annotations: str | Path,
    predictions: str | Path,
    subsets: Mapping[str, ImageIds],
    *,
    benchmark: str,
    tasks: Sequence[str] | None = None,
    max_detections: Sequence[int] | None = None,
    backend: str = DEFAULT,
) -> dict[str, dict[str, Metrics]]:
    """{subset: {task: metrics}}: on each subset the numbers that the benchmark gives for a data set of these images alone.

    A subset keeps, of LVIS, the images' own lists of what is absent and of what is not annotated to the last object.
    predictions: the output folder of an evaluation, or a JSON file of results; images without predictions count as images
    in which nothing was found. subsets: image ids by name. tasks, max_detections: as for the evaluators; None: what the folder
    says, else boxes, masks where both sides have them, and the benchmark's limits.
    """
    require_backend(backend, benchmark == "lvis")
    truth = read_truth(str(annotations), federated=benchmark == "lvis", masks="segm" in (tasks or TASKS))
    answers = read_answers(predictions, truth, tasks=tasks, max_detections=max_detections)
    return {name: subset_metrics(truth, answers, image_rows(truth, ids, name), backend) for name, ids in subsets.items()}


def subset_metrics(truth: Truth, answers: Answers, rows: NDArray[np.integer], backend: str = DEFAULT) -> dict[str, Metrics]:
    """{task: metrics} on some of the images. rows: ascending, of the truth's images."""
    part = truth.of_images(rows)
    return {
        task: summary(
            match(part, found_in(found, rows), limits=answers.limits, areas=area_ranges("standard"), backend=backend), part
        )
        for task, found in answers.found.items()
    }


def read_answers(
    predictions: str | Path,
    truth: Truth,
    *,
    tasks: Sequence[str] | None = None,
    max_detections: Sequence[int] | None = None,
) -> Answers:
    """See `score_subsets`. UserError for predictions that were made for other images or classes."""
    source = Path(predictions)
    if not truth.annotated:
        raise UserError("the data set has no ground truth (a test set), so there is no AP of any part of it")
    if source.is_dir():
        description = read_description(source)
        parts: Parts = Shards(source, description.ranks, read_masks=truth.with_masks and "segm" in (tasks or TASKS))
        category_ids = description.category_ids
        limits = tuple(sorted(max_detections or description.max_detections))
        seen = _rows_of_seen(truth, parts.image_ids(), source)
    else:
        category_ids = truth.category_ids.tolist()
        parts = InMemory([read_results(source, dict(enumerate(category_ids)))])
        limits = tuple(sorted(max_detections or USUAL_LIMITS["lvis" if truth.federated else "coco"]))
        seen = None
        _rows_of_seen(truth, parts.image_ids(), source)
    wanted = _tasks(tasks, truth, parts, source)
    labels = label_rows(truth, None if category_ids is None else dict(enumerate(category_ids)))
    pieces: dict[str, list[Detections]] = {task: [] for task in wanted}
    for part in parts:
        require_labels(part, len(labels), str(source))
        for task in wanted:
            pieces[task].append(detections(part, truth, task, limit=limits[-1], labels=labels))
    return Answers({task: join(found) for task, found in pieces.items()}, limits, seen)


def image_rows(truth: Truth, ids: ImageIds, name: str) -> NDArray[np.int64]:
    """The rows of a subset's images, ascending. UserError for an image that the data set has not, and for none at all."""
    if not ids:
        raise UserError(f"the subset {name!r} has no image, so there is no AP of it")
    wanted = np.unique(np.array(list(ids)))
    rows = truth.image_rows(wanted)
    if (rows < 0).any():
        raise UserError(
            f"{int((rows < 0).sum())} of {len(wanted)} images of the subset {name!r} are not in the data set (the first: "
            f"{wanted[rows < 0][0]}); take the ids of the data set that the predictions are of"
        )
    return np.sort(rows)


def found_in(found: Detections, rows: NDArray[np.integer]) -> Detections:
    """The detections in some images, on their rows among these. rows: ascending."""
    place = np.full(max(int(found.image.max(initial=-1)), int(rows.max(initial=-1))) + 1, -1, np.int32)
    place[rows] = np.arange(len(rows))
    kept = taken(found, np.flatnonzero(place[found.image] >= 0))
    return replace(kept, image=place[kept.image])


def _tasks(tasks: Sequence[str] | None, truth: Truth, parts: Parts, source: Path) -> Sequence[str]:
    """Those that were asked for, else those that both sides are fit for."""
    if tasks is None:
        return TASKS if parts.with_masks and truth.with_masks else TASKS[:1]
    if unknown := set(tasks) - set(TASKS):
        raise UserError(f"there is no task {', '.join(sorted(unknown))}; choose from {', '.join(TASKS)}")
    if "segm" in tasks and not (parts.with_masks and truth.with_masks):
        raise UserError(f"{source if truth.with_masks else 'the ground truth'} has no masks, so only boxes can be scored")
    return tasks


def _rows_of_seen(truth: Truth, ids: NDArray[Any], source: Path) -> NDArray[np.int64]:
    rows = truth.image_rows(ids)
    if (rows < 0).any():
        raise UserError(
            f"{int((rows < 0).sum())} of {len(ids)} images of {source} are not in the data set (the first: {ids[rows < 0][0]}); "
            "give the data set that the predictions are of"
        )
    if not len(ids):
        raise UserError(f"{source} holds no predictions; give the output folder of an evaluation or a JSON file of results")
    return np.unique(rows)
