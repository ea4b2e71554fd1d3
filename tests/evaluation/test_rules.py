"""Which detections count: the limits, the federated rule, the ranges of areas, and what is refused."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from eva02_det.evaluation.predictions import from_results
from eva02_det.evaluation.rules import area_ranges, best, detections, join, label_rows, of_categories
from eva02_det.evaluation.truth import Truth, truth_of
from eva02_det.utils.errors import UserError
from tests.evaluation import scenes


def loaded(federated: bool, seed: int = 0) -> tuple[Truth, list[dict]]:
    content = (scenes.federated_truth if federated else scenes.ground_truth)(seed)
    return truth_of(content, federated=federated), scenes.detections(content, seed + 50)


def counted(truth: Truth, results: list[dict], task: str = "bbox", limit: int = 300):
    categories = dict(enumerate(truth.category_ids.tolist()))
    return detections(from_results(results, categories), truth, task, limit=limit, labels=label_rows(truth, categories))


@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_the_best_of_each_group_are_those_of_a_stable_sort(limit):
    generator = np.random.default_rng(limit)
    groups, scores = generator.integers(0, 20, 500), generator.integers(0, 8, 500) / 8
    expected = []
    for group in range(20):
        rows = [row for row in range(500) if groups[row] == group]
        expected += sorted(rows, key=lambda row: -scores[row])[:limit]
    assert best(groups, scores, limit).tolist() == sorted(expected)
    assert best(groups[:0], scores[:0], limit).tolist() == []


def test_lvis_limits_an_image_before_it_looks_which_classes_count():
    truth, results = loaded(federated=True)
    for limit in (5, 40):
        found = counted(truth, results, limit=limit)
        known = {(i, c) for i, c in zip(truth.image.tolist(), truth.category.tolist())}
        known |= {divmod(pair, len(truth.names)) for pair in truth.absent.tolist()}
        expected = []
        for image in truth.image_ids.tolist():
            mine = [one for one in results if one["image_id"] == image]
            expected += sorted(mine, key=lambda one: -one["score"])[:limit]
        rows = {image: row for row, image in enumerate(truth.image_ids.tolist())}
        kinds = {category: row for row, category in enumerate(truth.category_ids.tolist())}
        pairs = [(rows[one["image_id"]], kinds[one["category_id"]]) for one in expected]
        assert sorted(zip(found.image.tolist(), found.category.tolist())) == sorted(pair for pair in pairs if pair in known)
        assert 0 < len(found) < len(pairs)


def test_coco_limits_each_class_of_an_image():
    truth, results = loaded(federated=False)
    found = counted(truth, results, limit=7)
    pairs, counts = np.unique(truth.pairs(found.image, found.category), return_counts=True)
    assert counts.max() == 7
    everything = counted(truth, results, limit=10**6)
    assert len(everything) == len(results)
    assert set(pairs) == set(truth.pairs(everything.image, everything.category))


def test_areas_are_those_of_masks_where_masks_are_scored():
    truth, results = loaded(federated=False)
    boxes, masks = counted(truth, results), counted(truth, results, "segm")
    np.testing.assert_allclose(boxes.areas, boxes.boxes[:, 2] * boxes.boxes[:, 3])
    assert (masks.areas < masks.boxes[:, 2] * masks.boxes[:, 3]).all()  # ellipses
    np.testing.assert_array_equal(masks.areas, masks.masks.areas())


def test_detections_without_mask_count_for_boxes_alone():
    truth, results = loaded(federated=False)
    assert len(counted(truth, results, "segm")) == len(results)
    with_masks = results[1::2]
    for one in results[::2]:
        del one["segmentation"]
    assert len(counted(truth, results)) == len(results)
    assert len(counted(truth, results, "segm")) == len(with_masks)


def test_images_that_do_not_count_are_left_out():
    truth, results = loaded(federated=False)
    part = truth.of_images(np.array([1, 2]))
    found = counted(part, results)
    assert set(found.image.tolist()) == {0, 1}
    assert len(found) == sum(one["image_id"] in (2, 3) for one in results)


def test_joined_detections_are_ordered_by_image_and_keep_their_order_there():
    truth, results = loaded(federated=False)
    by_image = [[one for one in results if one["image_id"] == image] for image in (3, 1, 2)]
    together = join([counted(truth, mine, "segm") for mine in by_image])
    at_once = counted(truth, [one for mine in (by_image[1], by_image[2], by_image[0]) for one in mine], "segm")
    for name in ("image", "category", "boxes", "scores", "areas"):
        np.testing.assert_array_equal(getattr(together, name), getattr(at_once, name))
    np.testing.assert_array_equal(together.masks.text, at_once.masks.text)


def test_some_categories_keep_their_detections_under_new_rows():
    truth, results = loaded(federated=False)
    found = counted(truth, results)
    some = of_categories(found, np.array([1, 2]))
    np.testing.assert_array_equal(some.scores, found.scores[np.isin(found.category, (1, 2))])
    assert set(some.category.tolist()) == {0, 1}


def test_the_finer_areas_cover_every_size_without_a_gap():
    ranges = area_ranges("fine")
    assert list(ranges)[:4] == ["", "s", "m", "l"] == list(area_ranges("standard"))
    fine = list(ranges.values())[4:]
    assert len(fine) == 13
    assert (fine[0][0], fine[0][1], fine[-1][0]) == (0, 64, 65536)
    assert fine[-1][1] == ranges[""][1] == 1e10
    assert all(high == low for (_, high), (low, _) in pairwise(fine))


def test_masks_of_another_size_than_the_annotations_are_refused():
    truth, results = loaded(federated=False)
    with pytest.raises(UserError, match=r"image \d+ are 96 x 96 but the annotations say 50 x 40"):
        counted(replace(truth, sizes=np.full_like(truth.sizes, 0) + [40, 50]), results, "segm")
    assert len(counted(replace(truth, sizes=truth.sizes + 1), results)) == len(results)


def test_classes_that_the_file_does_not_have_are_named():
    truth, _ = loaded(federated=False)
    assert label_rows(truth, {0: 7, 1: 2}).tolist() == [2, 0]
    assert label_rows(truth, None).tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match="category 99"):
        label_rows(truth, {0: 2, 1: 99})
