"""The numbers: every backend equals the benchmarks' own packages, and both equal values worked out by hand."""

import copy
import math

import numpy as np
import pytest

from eva02_det.evaluation.backends import backends, require_backend
from eva02_det.utils.errors import UserError
from tests.evaluation import scenes
from tests.evaluation.reference import coco_numbers, lvis_numbers
from tests.evaluation.scored import scored

COCO, LVIS = list(backends(federated=False)), list(backends(federated=True))
TASKS = ("bbox", "segm")


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), [expected[name] for name in found], rtol=0, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("backend", COCO)
@pytest.mark.parametrize("seed", range(4))
def test_coco_numbers_are_those_of_pycocotools(seed, backend, task):
    truth = scenes.ground_truth(seed)
    results = scenes.detections(truth, seed + 100)
    found = scored(truth, results, task, backend=backend)
    assert_same(found, coco_numbers(truth, results, task))
    assert 0 < found["AP"] < 100
    assert math.isnan(found[scenes.CLASSES[-1]])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("backend", COCO)
@pytest.mark.parametrize("limits", [(1, 2, 3), (1, 10, 300)])
def test_coco_numbers_are_those_of_pycocotools_under_other_limits(limits, backend, task):
    truth = scenes.ground_truth(7)
    results = scenes.detections(truth, 8)
    assert_same(scored(truth, results, task, backend=backend, limits=limits), coco_numbers(truth, results, task, limits))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("backend", LVIS)
@pytest.mark.parametrize("limit", [5, 40, 300])
def test_lvis_numbers_are_those_of_lvis_api(limit, backend, task, tmp_path):
    for seed in range(3):
        truth = scenes.federated_truth(seed)
        results = scenes.detections(truth, seed + 100)
        found = scored(truth, results, task, backend=backend, limits=[limit])
        assert_same(found, lvis_numbers(tmp_path, truth, results, task, limit))
        assert 0 < found["AP"] < 100


def test_lvis_and_coco_rules_give_different_numbers():
    truth = scenes.federated_truth(0)
    results = scenes.detections(truth, 100)
    plain = copy.deepcopy(truth)
    for image in plain["images"]:
        del image["neg_category_ids"]
    assert scored(truth, results, "bbox", limits=[300])["AP"] > scored(plain, results, "bbox")["AP"]


@pytest.mark.parametrize("federated", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_finer_areas_are_those_of_the_references(task, federated):
    truth = (scenes.federated_truth if federated else scenes.ground_truth)(5)
    results = scenes.detections(truth, 6)
    limits = [100] if federated else [1, 10, 100]
    names = LVIS if federated else COCO
    fast, *others = (scored(truth, results, task, backend=backend, limits=limits, bins="fine") for backend in names)
    for other in others:
        assert_same(fast, other)
    fine = [value for name, value in fast.items() if str(name).startswith("AP") and "-" in str(name)]
    assert len(fine) == 13
    assert np.isfinite(fine).sum() > 3
    assert {name: value for name, value in fast.items() if "-" not in str(name)} == pytest.approx(
        scored(truth, results, task, limits=limits), nan_ok=True
    )


def one_object(**more) -> dict:
    annotation = {"id": 0, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "area": 1600, **more}
    return {
        "images": [{"id": 1, "height": 96, "width": 96, "file_name": "a"}],
        "categories": [{"id": 1, "name": "a", "frequency": "r"}, {"id": 2, "name": "b", "frequency": "f"}],
        "annotations": [annotation],
    }


def box(x: float, y: float, width: float, height: float, score: float, category: int = 1) -> dict:
    return {"image_id": 1, "category_id": category, "bbox": [x, y, width, height], "score": score}


@pytest.mark.parametrize("backend", COCO)
def test_coco_values_worked_out_by_hand(backend):
    # IoU of the second box is 40 x 30 / 1600 = 0.75; the first is a false positive of higher score
    found = [box(60, 60, 10, 10, 0.9), box(10, 10, 40, 30, 0.8)]
    metrics = scored(one_object(), found, "bbox", backend=backend)
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


@pytest.mark.parametrize("backend", LVIS)
@pytest.mark.parametrize(
    ("absent", "incomplete", "limit", "expected"),
    [
        (
            [],
            [],
            300,
            100,
        ),  # class 2 was not looked for: its box is no mistake, and class 1's second box comes too late to matter
        ([2], [], 300, 100),  # now it is one, of a class without ground truth, which no mean contains
        ([], [], 1, 0),  # the one detection that counts is that of class 2, though it is not looked at
        ([], [], 2, 50),  # a false positive before the right one, of which the second alone is cut off
    ],
)
def test_lvis_values_worked_out_by_hand(backend, absent, incomplete, limit, expected):
    truth = one_object()
    truth["images"][0] |= {"neg_category_ids": absent, "not_exhaustive_category_ids": incomplete}
    found = [box(0, 0, 9, 9, 0.9, category=2), box(10, 10, 40, 40, 0.8), box(60, 60, 9, 9, 0.7)]
    if expected == 50:
        found = [box(60, 60, 9, 9, 0.9), box(10, 10, 40, 40, 0.8), box(0, 0, 9, 9, 0.7, category=2)]
    metrics = scored(truth, found, "bbox", backend=backend, limits=[limit])
    assert metrics["AP"] == pytest.approx(expected)
    assert metrics["APr"] == metrics["AP"]
    assert math.isnan(metrics["APf"])


@pytest.mark.parametrize("backend", LVIS)
def test_a_box_on_what_may_be_there_unannotated_is_no_mistake(backend):
    truth = one_object()
    truth["images"][0] |= {"neg_category_ids": [], "not_exhaustive_category_ids": [1]}
    found = [box(60, 60, 9, 9, 0.9), box(10, 10, 40, 40, 0.8)]
    assert scored(truth, found, "bbox", backend=backend, limits=[300])["AP"] == pytest.approx(100)
    truth["images"][0]["not_exhaustive_category_ids"] = []
    assert scored(truth, found, "bbox", backend=backend, limits=[300])["AP"] == pytest.approx(50)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("federated", [False, True])
def test_no_detection_at_all_is_zero(federated, task):
    truth = (scenes.federated_truth if federated else scenes.ground_truth)(0)
    for backend in LVIS if federated else COCO:
        metrics = scored(truth, [], task, backend=backend, limits=[300] if federated else [1, 10, 100])
        assert metrics["AP"] == 0
        assert metrics["AR" if federated else "AR100"] == 0
        assert math.isnan(metrics[scenes.CLASSES[-1]])


@pytest.mark.parametrize("backend", COCO)
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
    assert scored(truth, found, "bbox", backend=backend)["AP"] == pytest.approx(100)
    assert scored(truth, found, "segm", backend=backend)["AP"] == pytest.approx(100)
    for one in found:
        del one["mask_score"]
    assert scored(truth, found, "segm", backend=backend)["AP"] == pytest.approx(50)


@pytest.mark.parametrize("backend", COCO)
def test_evaluation_changes_neither_truth_nor_results(backend):
    truth = scenes.ground_truth(1)
    found = scenes.detections(truth, 2, crowded=0)
    before = copy.deepcopy((truth, found))
    scored(truth, found, "segm", backend=backend)
    assert (truth, found) == before


def test_an_unknown_or_absent_backend_is_named_with_what_there_is(monkeypatch):
    with pytest.raises(UserError, match=r"COCO .* 'fastest'.* hotcoco, faster-coco-eval, pycocotools"):
        require_backend("fastest", federated=False)
    with pytest.raises(UserError, match=r"LVIS .* 'faster-coco-eval'.* hotcoco, pycocotools, lvis"):
        require_backend("faster-coco-eval", federated=True)
    monkeypatch.setattr("importlib.util.find_spec", {}.get)
    with pytest.raises(UserError, match=r"pip install lvis`; or choose one of hotcoco, pycocotools"):
        require_backend("lvis", federated=True)


def test_lvis_reference_runs_without_a_change_to_the_installed_package():
    lvis = pytest.importorskip("lvis", exc_type=ImportError)
    before = lvis.LVISEval.accumulate
    from eva02_det.evaluation.references import lvis_evaluation

    assert issubclass(lvis_evaluation(), lvis.LVISEval)
    assert lvis.LVISEval.accumulate is before
    assert not hasattr(np, "float")
