"""Every backend gives the recorded numbers of the reference implementations, COCO's and LVIS's."""

import math
from dataclasses import replace

import pytest

from eva02_det.evaluation.backends import backends
from eva02_det.evaluation.truth import Truth, truth_of
from tests.evaluation.scored import numbers, scored, tables
from tests.golden.cases import GoldenCase, golden_cases

SIZES = {"_small": "s", "_medium": "m", "_large": "l"}


def is_lvis(case: GoldenCase) -> bool:
    return "frequency_override" in case.spec["files"]


def our_name(recorded: str) -> str:
    """AR_max10 is AR10, AP_small is APs, ARs@300 is ARs."""
    for long, short in SIZES.items():
        recorded = recorded.replace(long, short)
    return recorded.replace("_max", "").split("@")[0]


def in_percent(fraction: float | None) -> float:
    return math.nan if fraction in (None, -1) else 100 * fraction


def assert_recorded(found: dict, expected: dict, atol: float) -> None:
    assert expected
    for name, value in expected.items():
        assert found[our_name(name)] == pytest.approx(in_percent(value), abs=100 * atol, rel=0, nan_ok=True), name


def assert_recorded_classes(found: dict, expected: dict, atol: float) -> None:
    """Classes that are not recorded have no ground truth."""
    for category, value in ((name, value) for name, value in found.items() if isinstance(name, int)):
        recorded = in_percent(expected.get(str(category)))
        assert value == pytest.approx(recorded, abs=100 * atol, rel=0, nan_ok=True), category
    assert {int(category) for category in expected} <= found.keys()


@pytest.mark.parametrize("backend", backends(federated=False))
@pytest.mark.parametrize("case", [case for case in golden_cases("eval") if case.values[0] is None or not is_lvis(case.values[0])])
def test_coco_metrics_agree_with_the_recorded_ones(case: GoldenCase, backend: str):
    files, atol = case.spec["files"], case.tolerance["atol"]
    truth, results = case.json(files["ground_truth"]), case.json(files["predictions"])
    for task, expected in case.json(files["expected"]).items():
        by_class = expected.pop("per_category_AP")
        found = scored(truth, results, task, backend=backend)
        assert_recorded(found, expected, atol)
        assert_recorded_classes(found, by_class, atol)


def with_frequencies(truth: Truth, frequencies: dict[str, str]) -> Truth:
    changed = truth.frequency.copy()
    for row, category in enumerate(truth.category_ids.tolist()):
        changed[row] = frequencies.get(str(category), changed[row])
    return replace(truth, frequency=changed)


@pytest.mark.parametrize("backend", backends(federated=True))
@pytest.mark.parametrize("case", [case for case in golden_cases("eval") if case.values[0] is None or is_lvis(case.values[0])])
def test_lvis_metrics_agree_with_the_recorded_ones(case: GoldenCase, backend: str):
    if backend == "lvis":
        pytest.importorskip("lvis", exc_type=ImportError)
    files, atol = case.spec["files"], case.tolerance["atol"]
    truth = truth_of(case.json(files["ground_truth"]), federated=True)
    results = case.json(files["predictions"])
    overridden = with_frequencies(truth, case.json(files["frequency_override"]))
    for key, expected in case.json(files["expected"]).items():
        kind, limit = key.rsplit("_max", 1)
        task, box_areas = ("bbox", False) if kind == "bbox" else ("segm", kind.endswith("area_from_box"))
        found = tables(truth, results, task, backend=backend, limits=[int(limit)], box_areas=box_areas)
        assert_recorded(numbers(found, truth), expected["original_frequencies"], atol)
        assert_recorded(numbers(found, overridden), expected["overridden_frequencies"], atol)
        assert_recorded_classes(numbers(found, truth), expected["per_category_AP"], atol)
