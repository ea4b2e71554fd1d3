"""Annotations and results in the files' formats through our columns to numbers, for tests."""

from collections.abc import Sequence
from typing import Any

from eva02_det.evaluation.backends import Tables, match
from eva02_det.evaluation.metrics import class_ap, summary
from eva02_det.evaluation.predictions import from_results
from eva02_det.evaluation.rules import area_ranges, detections, join, label_rows
from eva02_det.evaluation.truth import Truth, truth_of


def scored(truth: Truth | dict, results: list[dict], task: str, **options: Any) -> dict:
    """The benchmark's numbers by name and AP by category id. A dict is LVIS's where its images say what is absent."""
    if isinstance(truth, dict):
        truth = truth_of(truth, federated="neg_category_ids" in truth["images"][0])
    return numbers(tables(truth, results, task, **options), truth)


def tables(
    truth: Truth,
    results: list[dict],
    task: str,
    *,
    backend: str = "hotcoco",
    limits: Sequence[int] = (1, 10, 100),
    box_areas: bool = False,
    bins: str = "standard",
) -> Tables:
    """What the numbers are means of."""
    categories = dict(enumerate(truth.category_ids.tolist()))
    found = detections(
        from_results(results, categories),
        truth,
        task,
        limit=limits[-1],
        labels=label_rows(truth, categories),
        box_areas=box_areas,
    )
    return match(truth, join([found]), limits=tuple(limits), areas=area_ranges(bins), backend=backend)


def numbers(tables: Tables, truth: Truth) -> dict:
    """By name, and AP by category id."""
    return summary(tables, truth) | dict(zip(truth.category_ids.tolist(), class_ap(tables).tolist()))
