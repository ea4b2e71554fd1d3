"""The evaluators give the recorded numbers of the reference implementations."""

import math

import pytest

from eva02_det.evaluation.average_precision import BACKENDS, class_ap, run_coco, summary
from tests.golden.cases import GoldenCase, golden_cases

NAMES = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "AP_small": "APs",
    "AP_medium": "APm",
    "AP_large": "APl",
    "AR_max1": "AR1",
    "AR_max10": "AR10",
    "AR_max100": "AR100",
    "AR_small": "ARs",
    "AR_medium": "ARm",
    "AR_large": "ARl",
}


def is_lvis(ground_truth: dict) -> bool:
    """LVIS marks categories by how rare they are and images by what was looked for in them."""
    return "neg_category_ids" in ground_truth["images"][0]


def in_percent(fraction: float | None) -> float:
    return math.nan if fraction in (None, -1) else 100 * fraction


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", golden_cases("eval"))
def test_coco_metrics_agree_with_the_recorded_ones(case: GoldenCase, backend: str):
    files = case.spec["files"]
    ground_truth = case.json(files["ground_truth"])
    if is_lvis(ground_truth):
        pytest.skip("LVIS evaluation is not part of this version yet")
    results = case.json(files["predictions"])
    atol = 100 * case.tolerance["atol"]
    for task, expected in case.json(files["expected"]).items():
        evaluation = run_coco(ground_truth, results, task, backend=backend)
        found = summary(evaluation)
        for name, value in expected.items():
            if name != "per_category_AP":
                assert found[NAMES[name]] == pytest.approx(in_percent(value), abs=atol, rel=0, nan_ok=True), (task, name)
        by_class = class_ap(evaluation)
        assert set(by_class) == {int(category) for category in expected["per_category_AP"]}
        for category, value in expected["per_category_AP"].items():
            assert by_class[int(category)] == pytest.approx(in_percent(value), abs=atol, rel=0, nan_ok=True), (task, category)
