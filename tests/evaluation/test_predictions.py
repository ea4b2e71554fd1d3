"""Packing predictions, joining them, and the way to COCO's format and back."""

import json

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_mask

from eva02_det.evaluation.predictions import Predictions, from_results, join, pack, read_results
from eva02_det.utils.errors import UserError
from tests.evaluation import scenes

CATEGORIES = dict(enumerate(scenes.CLASSES))


def instances(count: int, masks: bool = True, mask_scores: bool = False) -> Instances:
    generator = torch.Generator().manual_seed(count)
    found = Instances((20, 30))
    corners = torch.rand(count, 2, generator=generator) * 10
    found.pred_boxes = Boxes(torch.cat([corners, corners + 5], dim=1))
    found.scores = torch.rand(count, generator=generator)
    found.pred_classes = torch.arange(count) % 2
    if masks:
        found.pred_masks = torch.rand(count, 20, 30, generator=generator) > 0.5
    if mask_scores:
        found.mask_scores = found.scores / 2
    return found


def in_coco_format(predictions: Predictions, categories: dict | None = None) -> list[dict]:
    return list(predictions.results(categories or {0: 40, 1: 50}))


def test_results_carry_boxes_by_corner_and_size_and_the_ids_of_the_file():
    found = instances(3, mask_scores=True)
    results = in_coco_format(pack(7, found))
    assert [one["category_id"] for one in results] == [40, 50, 40]
    assert {one["image_id"] for one in results} == {7}
    x0, y0, x1, y1 = found.pred_boxes.tensor[1].tolist()
    assert results[1]["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=1e-5)
    assert results[1]["score"] == found.scores[1].item()
    assert results[1]["mask_score"] == found.mask_scores[1].item()
    np.testing.assert_array_equal(coco_mask.decode(results[2]["segmentation"]), found.pred_masks[2].numpy())


def test_without_masks_or_scores_of_their_own_the_keys_are_absent():
    (boxes,) = in_coco_format(pack(1, instances(1, masks=False)))
    (masks,) = in_coco_format(pack(1, instances(1)))
    assert set(boxes) == {"image_id", "category_id", "bbox", "score"}
    assert set(masks) == {"image_id", "category_id", "bbox", "score", "segmentation"}


def test_a_detector_in_low_precision_is_taken_as_it_is():
    found = instances(3, masks=False, mask_scores=True)
    found.pred_boxes = Boxes(found.pred_boxes.tensor.bfloat16().float())
    found.scores, found.mask_scores = found.scores.bfloat16(), found.mask_scores.half()
    packed = pack(1, found)
    assert packed.scores.tolist() == found.scores.float().tolist()
    assert packed.mask_scores.dtype == packed.boxes.dtype == np.float32


def test_joined_images_keep_their_detections_in_order():
    parts = [pack("b", instances(3)), pack("a", instances(0)), pack("c", instances(2))]
    together = join(parts)
    assert together.image_ids.tolist() == ["b", "a", "c"]
    assert together.image.tolist() == [0, 0, 0, 2, 2]
    assert in_coco_format(together) == [one for part in parts for one in in_coco_format(part)]


def test_a_part_without_masks_or_their_scores_is_filled_up_when_joined():
    plain, full = pack(1, instances(2, masks=False)), pack(2, instances(1, mask_scores=True))
    first, _, third = in_coco_format(join([plain, full]))
    assert "segmentation" not in first
    assert first["mask_score"] == first["score"]
    assert third == in_coco_format(full)[0]


def test_rows_and_images_can_be_taken_out():
    together = join([pack(5, instances(3)), pack(6, instances(2)), pack(7, instances(1))])
    results = in_coco_format(together)
    assert in_coco_format(together.take(np.array([4, 0]))) == [results[4], results[0]]
    last = together.of_images(np.array([False, True, True]))
    assert last.image_ids.tolist() == [6, 7]
    assert in_coco_format(last) == results[3:]


@pytest.mark.parametrize("calibrated", [False, True])
def test_results_survive_the_way_into_columns_and_back(tmp_path, calibrated):
    results = scenes.detections(scenes.ground_truth(1), 2, crowded=0)
    if not calibrated:
        for one in results:
            del one["mask_score"]
    assert list(from_results(results, CATEGORIES).results(CATEGORIES)) == results
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    assert list(read_results(file, CATEGORIES).results(CATEGORIES)) == results


def test_a_result_without_box_takes_that_of_its_mask_and_raw_run_lengths_are_compressed():
    bitmap = np.zeros((6, 8), np.uint8)
    bitmap[2:5, 3:7] = 1
    raw = {"size": [6, 8], "counts": [20, 3, 3, 3, 3, 3, 3, 3, 7]}
    (result,) = from_results([{"image_id": 1, "category_id": 5, "score": 0.5, "segmentation": raw}], CATEGORIES).results(
        CATEGORIES
    )
    assert result["bbox"] == [3, 2, 4, 3]
    np.testing.assert_array_equal(coco_mask.decode(result["segmentation"]), bitmap)


def test_results_that_cannot_be_used_are_named(tmp_path):
    good = {"image_id": 1, "category_id": 5, "score": 0.5, "bbox": [1, 2, 3, 4]}
    for bad, reason in (
        ({**good, "category_id": 99}, "category 99"),
        ({**good, "bbox": [1, 2, 3]}, "four numbers"),
        ({**good, "bbox": None}, "neither a bbox"),
        ({**good, "segmentation": [[1, 1, 5, 1, 5, 5]]}, "not run lengths"),
    ):
        with pytest.raises(UserError, match=reason):
            from_results([good, bad], CATEGORIES)
    file = tmp_path / "results.json"
    with pytest.raises(UserError, match="does not exist"):
        read_results(file, CATEGORIES)
    for content, reason in (("[{", "not valid JSON"), ('{"annotations": []}', "not a list"), ('[{"image_id": 1}]', "not a list")):
        file.write_text(content)
        with pytest.raises(UserError, match=reason):
            read_results(file, CATEGORIES)
