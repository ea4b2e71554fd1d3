"""The effect study: AP of one detector or two on all, contaminated and clean images of a data set, as one record."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from numpy.typing import NDArray

from eva02_det.contamination.corpus import place_of
from eva02_det.contamination.effects import (
    CONTAMINATED,
    Estimate,
    Settings,
    category_groups,
    estimates,
    size_of,
    subset_rows,
    tasks_of_all,
)
from eva02_det.contamination.verdict import sentences
from eva02_det.evaluation.outcome import without_nan
from eva02_det.evaluation.rules import TASKS
from eva02_det.evaluation.subsets import Answers, image_rows, read_answers, subset_metrics
from eva02_det.evaluation.truth import Truth, read_truth
from eva02_det.utils.errors import UserError

FORMAT = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Study:
    """All numbers of a study, and what they mean."""

    evaluation: str
    arms: dict[str, str]  # name -> its predictions
    settings: Settings
    subsets: dict[str, dict[str, dict[str, int]]]  # subset -> group of categories -> images, instances, categories
    metrics: dict[str, dict[str, dict[str, dict[str, float]]]]  # arm -> subset -> task -> the benchmark's own numbers
    estimates: list[Estimate]

    def sentences(self) -> list[str]:
        """The answer in words."""
        return sentences(self.estimates, self.subsets, self.settings)

    def as_record(self) -> dict[str, Any]:
        """Plain JSON; what is undefined is null."""
        return {"format": FORMAT, **without_nan(asdict(self)), "sentences": self.sentences()}


def study(
    evaluation: str,
    contaminated: Collection[int | str],
    predictions: Mapping[str, str | Path],
    *,
    settings: Settings | None = None,
    tasks: Sequence[str] | None = None,
    max_detections: Sequence[int] | None = None,
) -> Study:
    """Of a data set by name, or an annotation file.

    contaminated: ids of the images that pre-training has seen. predictions: output folders of evaluations or JSON files of
    results, by the name of the arm; every arm is compared with the first, so let that be the one that has not seen the images.
    tasks, max_detections: as for the evaluators.
    """
    if not predictions:
        raise UserError("there are no predictions to study; give those of one detector or two")
    settings = settings or Settings()
    truth = open_evaluation(evaluation, masks="segm" in (tasks or TASKS))
    arms = {}
    for name, source in predictions.items():
        arms[name] = read_answers(source, truth, tasks=tasks, max_detections=max_detections)
        log.info("%s: predictions of %s read", name, source)
    _require_comparable(arms, len(truth.image_ids), evaluation)
    if not contaminated:
        raise UserError(f"no image of {evaluation} is contaminated, so there is no effect to measure")
    seen = np.isin(np.arange(len(truth.image_ids)), image_rows(truth, contaminated, CONTAMINATED))
    if seen.all():
        raise UserError(f"all {len(seen)} images of {evaluation} are contaminated, so there are no clean ones to compare with")
    groups = category_groups(truth, seen)
    return Study(
        evaluation=evaluation,
        arms={name: str(source) for name, source in predictions.items()},
        settings=settings,
        subsets={
            subset: {group: asdict(size_of(truth, rows, members)) for group, members in groups.items()}
            for subset, rows in subset_rows(seen).items()
        },
        metrics=_benchmark_numbers(truth, arms, seen),
        estimates=list(estimates(truth, arms, seen, settings)),
    )


def open_evaluation(spec: str, *, masks: bool) -> Truth:
    """The annotations of a registered data set, or of FILE.json or FILE.json@FOLDER; images need not be there.

    It is scored by LVIS's rules where it is registered as LVIS, or its file lists what is absent from the images.
    masks: whether the masks are read too.
    """
    place = place_of(spec)
    if place is None:
        raise UserError(f"{spec} is neither a registered data set nor an annotation file; give a name such as lvis_v1_val")
    kind = MetadataCatalog.get(spec).get("evaluator_type") if spec in DatasetCatalog.list() else None
    federated = kind == "lvis" if kind else _lists_absent(place.json_file)
    return read_truth(place.json_file, federated=federated, masks=masks)


def _lists_absent(file: str) -> bool:
    """Whether an annotation file is LVIS's. One that cannot be read is for its reader to name."""
    try:
        with Path(file).open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as content:
            return content.find(b'"neg_category_ids"') >= 0
    except (OSError, ValueError):
        return False


def _require_comparable(arms: Mapping[str, Answers], images: int, evaluation: str) -> None:
    """UserError where a detector looked at fewer images than the data set has, or two were cut off at different limits."""
    for name, answers in arms.items():
        if answers.seen is not None and len(answers.seen) < images:
            raise UserError(
                f"{name} was evaluated on {len(answers.seen)} of the {images} images of {evaluation}; "
                "give the data set that it was evaluated on, or evaluate it on all images"
            )
    for (one, first), (other, second) in pairwise(arms.items()):
        if first.limits != second.limits:
            limits = [", ".join(map(str, answers.limits)) for answers in (first, second)]
            raise UserError(
                f"{one} keeps {limits[0]} detections and {other} {limits[1]}, which would pass for an effect; "
                "set one limit for both (max_detections)"
            )
    if not tasks_of_all(arms):
        raise UserError(f"{' and '.join(arms)} share no task; give predictions of boxes for all, or of masks")


def _benchmark_numbers(truth: Truth, arms: Mapping[str, Answers], seen: NDArray[np.bool_]) -> dict[str, Any]:
    """The evaluators' own numbers, sizes of objects and recall too, without intervals."""
    return {
        name: {subset: subset_metrics(truth, answers, rows) for subset, rows in subset_rows(seen).items()}
        for name, answers in arms.items()
    }
