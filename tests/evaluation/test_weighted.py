"""AP under weights is AP of a data set in which images are there as often as their weights say."""

import copy
from itertools import pairwise

import numpy as np
import pytest

from eva02_det.evaluation import weighted
from eva02_det.evaluation.backends import IOU_THRESHOLDS
from eva02_det.evaluation.matches import Matches
from eva02_det.evaluation.weighted import WeightedAp
from tests.evaluation import scenes
from tests.evaluation.oracle import noisy_oracle
from tests.evaluation.reference import coco_numbers, lvis_numbers
from tests.evaluation.test_matches import matched, truth_of

RECALLS = np.linspace(0, 1, 101)


def repeated(content: dict, results: list[dict], weights: list[int]) -> tuple[dict, list[dict]]:
    """The files of a data set with copies of images, under new ids that keep their order."""
    ids = [image["id"] for image in content["images"]]
    new_ids = {old: [1000 * old + number for number in range(weight)] for old, weight in zip(ids, weights)}
    images, annotations, found = (
        [{**one, key: new} for one in entries for new in new_ids[one[key]]]
        for entries, key in ((content["images"], "id"), (content["annotations"], "image_id"), (results, "image_id"))
    )
    annotations = [{**one, "id": number} for number, one in enumerate(annotations, 1)]
    return {**copy.deepcopy(content), "images": images, "annotations": annotations}, found


@pytest.mark.parametrize("federated", [True, False])
def test_a_weight_counts_an_image_so_many_times(tmp_path, federated):
    content = (scenes.federated_truth if federated else scenes.ground_truth)(5, images=12)
    results = noisy_oracle(content, seed=2, masks=False)
    sets = np.random.default_rng(0).integers(0, 4, (3, 12))
    truth = truth_of(content, federated=federated)
    ap = WeightedAp(matched(truth, results, limit=300))(sets)
    for weights, by_category in zip(sets.tolist(), ap.mean(axis=1)):
        files = repeated(content, results, weights)
        expected = lvis_numbers(tmp_path, *files, "bbox") if federated else coco_numbers(*files, "bbox", (1, 10, 300))
        expected = [expected[category] for category in truth.category_ids.tolist()]
        np.testing.assert_allclose(by_category, expected, rtol=0, atol=1e-9, equal_nan=True)


def made_up(seed: int, images: int, objects: int, shown: int) -> Matches:
    """Two categories with objects, one without; at each threshold no more right detections than there are objects."""
    generator = np.random.default_rng(seed)
    object_image = generator.integers(0, images, objects).astype(np.int32)
    object_category = np.sort(generator.integers(0, 2, objects)).astype(np.int32)
    image = generator.integers(0, images, shown).astype(np.int32)
    category = np.sort(generator.integers(0, 3, shown)).astype(np.int32)
    right = generator.random(shown) >= IOU_THRESHOLDS[:, None] - 0.4
    for mine in ((image == one) & (category == kind) for one in range(images) for kind in range(3)):
        there = np.sum((object_image == image[mine][:1]) & (object_category == category[mine][:1])) if mine.any() else 0
        right[:, mine] &= np.cumsum(right[:, mine], axis=1) <= there
    ignored = ~right & (generator.random(right.shape) < 0.2)
    return Matches(images, 3, image, category, right, ignored, object_image, object_category)


def one_by_one(found: Matches, weights: np.ndarray) -> np.ndarray:
    """[T, K] as the references write it: every copy a row, sums of right and wrong, the best precision from each recall on."""
    ap = np.full((len(IOU_THRESHOLDS), found.categories), np.nan)
    for category in range(found.categories):
        objects = weights[found.object_image[found.object_category == category]].sum()
        rows = np.flatnonzero(found.category == category)
        rows = np.repeat(rows, weights[found.image[rows]])
        for threshold in range(len(IOU_THRESHOLDS)) if objects else ():
            counted = rows[~found.ignored[threshold, rows]]
            right = np.cumsum(found.right[threshold, counted])
            recall, precision = right / objects, right / (np.arange(len(counted)) + 1)
            for place, _ in reversed(list(pairwise(range(len(counted))))):
                precision[place] = max(precision[place], precision[place + 1])
            reached = np.searchsorted(recall, RECALLS, side="left")
            ap[threshold, category] = np.mean([precision[place] if place < len(precision) else 0 for place in reached])
    return 100 * ap


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_references_formula_whatever_the_flags(seed):
    found = made_up(seed, images=9, objects=(7, 40)[seed % 2], shown=(30, 200)[seed // 3])
    sets = np.random.default_rng(seed).integers(0, 4, (20, 9))
    sets[0] = 0
    for weights, ap in zip(sets, WeightedAp(found)(sets)):
        np.testing.assert_allclose(ap, one_by_one(found, weights), rtol=0, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("objects", [10, 20, 50, 100, 200])
def test_a_recall_that_equals_a_rounded_level_counts_as_the_references_count_it(objects):
    """35/100 is below the level that stands for it, 0.35000000000000003; with as many objects, each level is hit exactly."""
    empty = np.zeros(objects, np.int32)
    right = np.broadcast_to(np.random.default_rng(objects).random(2 * objects) < 0.5, (10, 2 * objects))
    right = right & (np.cumsum(right, axis=1) <= objects)
    zeros = np.zeros(2 * objects, np.int32)
    found = Matches(2, 1, zeros, zeros, right, np.zeros_like(right), empty, empty)
    for weights in ([1, 0], [3, 1]):
        ap = WeightedAp(found)(np.array([weights]))
        np.testing.assert_allclose(ap[0], one_by_one(found, np.array(weights)), rtol=0, atol=1e-9)


def test_a_category_without_an_object_is_undefined_and_one_without_a_detection_is_zero():
    nothing = np.zeros((10, 0), bool)
    none = np.zeros(0, np.int32)
    found = Matches(2, 2, none, none, nothing, nothing, np.array([0, 1], np.int32), np.array([0, 1], np.int32))
    np.testing.assert_array_equal(WeightedAp(found)(np.array([[1, 1], [0, 2]]))[:, 0], [[0, 0], [np.nan, 0]])


def test_working_in_small_pieces_changes_nothing(monkeypatch):
    found = made_up(3, images=9, objects=40, shown=200)
    sets = np.random.default_rng(1).integers(0, 4, (60, 9))
    whole = WeightedAp(found)(sets)
    for name, value in (("SETS_AT_ONCE", 25), ("ELEMENTS_AT_ONCE", 400), ("FEW", 1000)):
        monkeypatch.setattr(weighted, name, value)
        np.testing.assert_allclose(WeightedAp(found)(sets), whole, rtol=0, atol=1e-10, equal_nan=True)


def test_weights_of_another_number_of_images_are_refused():
    with pytest.raises(ValueError, match="3 weights for 9 images"):
        WeightedAp(made_up(0, images=9, objects=5, shown=5))(np.ones((1, 3), int))
