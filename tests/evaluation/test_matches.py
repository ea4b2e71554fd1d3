"""Matches counted once give every reference's numbers; what they hold besides."""

import numpy as np
import pytest

from eva02_det.evaluation import matches as module
from eva02_det.evaluation.matches import Matches, matches
from eva02_det.evaluation.predictions import from_results
from eva02_det.evaluation.rules import detections, join, label_rows
from eva02_det.evaluation.truth import Truth, truth_of
from eva02_det.evaluation.weighted import WeightedAp
from tests.evaluation import scenes
from tests.evaluation.scored import scored, tables


def scene(seed: int, federated: bool, images: int = 12) -> tuple[Truth, list[dict]]:
    content = (scenes.federated_truth if federated else scenes.ground_truth)(seed, images)
    return truth_of(content, federated=federated), scenes.detections(content, seed + 100)


def matched(truth: Truth, results: list[dict], task: str = "bbox", limit: int = 100) -> Matches:
    categories = dict(enumerate(truth.category_ids.tolist()))
    found = detections(from_results(results, categories), truth, task, limit=limit, labels=label_rows(truth, categories))
    return matches(truth, join([found]))


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize(
    ("federated", "backend"), [(False, "pycocotools"), (False, "hotcoco"), (True, "lvis"), (True, "hotcoco")]
)
def test_each_category_and_threshold_has_the_average_precision_of_the_references(federated, backend, task):
    if backend == "lvis":
        pytest.importorskip("lvis", exc_type=ImportError)
    for seed in range(3):
        truth, results = scene(seed, federated)
        expected = tables(truth, results, task, backend=backend, limits=[100] if federated else [1, 10, 100])
        expected = 100 * expected.precision[..., 0, -1].mean(axis=1)
        expected[expected < 0] = np.nan  # the tables' mark of a category without objects
        ap = WeightedAp(matched(truth, results, task))(np.ones((1, len(truth.image_ids)), np.uint8))
        np.testing.assert_allclose(ap[0], expected, rtol=0, atol=1e-9, equal_nan=True)
        assert 0 < np.nanmean(ap) < 100


def test_comparing_in_small_pieces_changes_nothing(monkeypatch):
    for task in ("bbox", "segm"):
        truth, results = scene(1, federated=False)
        whole = matched(truth, results, task)
        monkeypatch.setattr(module, "PAIRS_AT_ONCE", 7)
        pieces = matched(truth, results, task)
        monkeypatch.undo()
        np.testing.assert_array_equal(whole.right, pieces.right)
        np.testing.assert_array_equal(whole.ignored, pieces.ignored)


def test_a_part_of_the_images_is_matched_like_a_data_set_of_them():
    truth, results = scene(2, federated=True)
    rows = np.array([0, 3, 4, 9])
    mine = [one for one in results if one["image_id"] in set(truth.image_ids[rows].tolist())]
    alone, part = matched(truth.of_images(rows), mine), matched(truth, results).of_images(rows)
    assert (part.images, part.categories) == (4, len(truth.names))
    for name in ("image", "category", "right", "ignored", "object_image", "object_category"):
        np.testing.assert_array_equal(getattr(part, name), getattr(alone, name))


def hand_made(crowd: bool = False, incomplete: tuple[int, ...] = ()) -> Truth:
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [20, 0, 40, 40], "area": 1600, "iscrowd": int(crowd)},
    ]
    image = {"id": 1, "height": 96, "width": 96, "neg_category_ids": [], "not_exhaustive_category_ids": list(incomplete)}
    content = {"images": [image], "categories": [{"id": 1, "name": "a", "frequency": "r"}], "annotations": annotations}
    return truth_of(content, federated=not crowd)


def test_a_detection_is_right_up_to_its_overlap_and_an_object_is_found_once():
    boxes = [(0.9, [0, 0, 10, 8]), (0.8, [0, 0, 10, 10]), (0.7, [20, 0, 40, 40]), (0.6, [70, 70, 9, 9])]
    results = [{"image_id": 1, "category_id": 1, "bbox": box, "score": score} for score, box in boxes]
    found = matched(hand_made(), results)
    assert found.right.sum(axis=0).tolist() == [7, 3, 10, 0]  # at 0.80, the second takes what the first has no claim to
    assert not found.ignored.any()
    incomplete = matched(hand_made(incomplete=(1,)), results)
    assert (incomplete.right | incomplete.ignored).all()
    assert len(incomplete.object_image) == 2


def test_of_two_objects_that_are_equally_close_the_later_one_is_taken_as_the_references_do():
    annotations = [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": [x, 0, 10, 10], "area": 100, "iscrowd": 0}
        for number, x in enumerate((0, 4), 1)
    ]
    content = {
        "images": [{"id": 1, "height": 96, "width": 96}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": annotations,
    }
    results = [{"image_id": 1, "category_id": 1, "bbox": [x, 0, 10, 10], "score": score} for x, score in ((2, 0.9), (4, 0.8))]
    # the first, with an IoU of 8/12 to both, leaves the exact second one nothing up to 0.65
    assert matched(truth_of(content), results).right.sum(axis=0).tolist() == [4, 6]
    assert scored(content, results, "bbox", backend="pycocotools")["AR100"] == pytest.approx(50)


def test_a_crowd_takes_any_number_and_counts_as_no_object():
    results = [{"image_id": 1, "category_id": 1, "bbox": [20, 0, 8, 40], "score": score} for score in (0.9, 0.8)]
    found = matched(hand_made(crowd=True), results)
    assert found.ignored.all()
    assert len(found.object_image) == 1


def test_without_detections_there_are_objects_alone():
    found = matched(hand_made(), [])
    assert len(found) == 0
    assert found.object_category.tolist() == [0, 0]
