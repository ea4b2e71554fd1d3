"""COCO's numbers: the fast backend equals the reference, and both equal values worked out by hand."""

import copy
import math

import numpy as np
import pytest

from eva02_det.evaluation.average_precision import BACKENDS, class_ap, has_masks, run_coco, summary
from eva02_det.utils.errors import UserError
from tests.evaluation import scenes
from tests.golden.cases import GoldenCase, golden_cases


def numbers(truth: dict, results: list[dict], task: str, **options) -> dict:
    evaluation = run_coco(truth, results, task, **options)
    return summary(evaluation) | class_ap(evaluation)


def assert_backends_agree(truth: dict, results: list[dict], task: str, **options) -> dict:
    fast, reference = (numbers(truth, results, task, backend=backend, **options) for backend in BACKENDS)
    assert fast.keys() == reference.keys()
    np.testing.assert_allclose(list(fast.values()), list(reference.values()), rtol=0, atol=1e-9, equal_nan=True)
    return fast


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(5))
def test_the_fast_backend_equals_pycocotools_on_random_scenes(seed, task):
    truth = scenes.ground_truth(seed)
    found = assert_backends_agree(truth, scenes.detections(truth, seed + 100), task)
    assert 0 < found["AP"] < 100
    assert math.isnan(found[scenes.CLASSES[-1]])


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("limits", [(1, 2, 3), (1, 10, 300)])
def test_the_backends_agree_under_other_limits(limits, task):
    truth = scenes.ground_truth(7)
    found = assert_backends_agree(truth, scenes.detections(truth, 8), task, max_detections=limits)
    assert f"AR{limits[-1]}" in found


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("case", golden_cases("eval"))
def test_the_backends_agree_on_recorded_predictions(case: GoldenCase, task: str):
    truth = case.json(case.spec["files"]["ground_truth"])
    if "neg_category_ids" in truth["images"][0]:
        pytest.skip("LVIS evaluation is not part of this version yet")
    assert_backends_agree(truth, case.json(case.spec["files"]["predictions"]), task)


def one_object(**more) -> dict:
    annotation = {"id": 0, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], **more}
    return {
        "images": [{"id": 1, "height": 96, "width": 96, "file_name": "a"}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [annotation],
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_worked_out_by_hand(backend):
    # IoU of the second box is 40 x 30 / 1600 = 0.75; the first is a false positive of higher score
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [60.0, 60, 10, 10], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [10.0, 10, 40, 30], "score": 0.8},
    ]
    metrics = numbers(one_object(), found, "bbox", backend=backend)
    assert metrics["AP50"] == pytest.approx(50)
    assert metrics["AP75"] == pytest.approx(50)
    assert metrics["AP"] == pytest.approx(50 * 6 / 10)  # right at 0.50, 0.55 ... 0.75
    assert metrics["AR1"] == 0
    assert metrics["AR10"] == pytest.approx(60)
    assert metrics["APm"] == pytest.approx(60)  # the small false positive does not count there
    assert math.isnan(metrics["APl"])
    assert math.isnan(metrics["APs"])
    assert math.isnan(metrics[2])
    assert metrics[1] == metrics["AP"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_no_detection_at_all_is_zero(backend, task):
    truth = scenes.ground_truth(0)
    metrics = numbers(truth, [], task, backend=backend)
    assert metrics["AP"] == 0
    assert metrics["AR100"] == 0
    assert math.isnan(metrics[scenes.CLASSES[-1]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_are_ranked_by_their_own_score_and_boxes_are_not(backend):
    square = np.zeros((96, 96), np.uint8)
    square[10:50, 10:50] = 1
    wrong = np.zeros((96, 96), np.uint8)
    wrong[60:, 60:] = 1
    found = [
        {"bbox": [10.0, 10, 40, 40], "segmentation": scenes.runs(wrong), "score": 0.9, "mask_score": 0.1},
        {"bbox": [60.0, 60, 30, 30], "segmentation": scenes.runs(square), "score": 0.8, "mask_score": 0.7},
    ]
    found = [{"image_id": 1, "category_id": 1, **one} for one in found]
    truth = one_object(segmentation=scenes.runs(square))
    assert numbers(truth, found, "bbox", backend=backend)["AP"] == pytest.approx(100)
    assert numbers(truth, found, "segm", backend=backend)["AP"] == pytest.approx(100)
    for one in found:
        del one["mask_score"]
    assert numbers(truth, found, "segm", backend=backend)["AP"] == pytest.approx(50)


@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluation_changes_neither_truth_nor_results(backend):
    truth = scenes.ground_truth(1)
    found = scenes.detections(truth, 2, crowded=0)
    before = copy.deepcopy((truth, found))
    run_coco(truth, found, "segm", backend=backend)
    assert (truth, found) == before


def test_masks_cannot_be_evaluated_against_boxes():
    truth = one_object()
    assert not has_masks(truth)
    with pytest.raises(UserError, match="no masks"):
        run_coco(truth, [], "segm")
