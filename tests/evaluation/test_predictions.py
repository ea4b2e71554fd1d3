"""Packing predictions and their way back into COCO's format."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_mask

from eva02_det.evaluation.predictions import MASKS_AT_ONCE, coco_results, encode_masks, pack


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


@pytest.mark.parametrize("count", [0, 1, 3, MASKS_AT_ONCE + 2, 300])
def test_encoded_masks_decode_to_themselves(count):
    masks = instances(count).pred_masks
    counts = encode_masks(masks)
    assert len(counts) == count
    for mask, one in zip(masks, counts):
        np.testing.assert_array_equal(coco_mask.decode({"size": [20, 30], "counts": one}), mask.numpy())


def test_results_carry_boxes_by_corner_and_size_and_the_ids_of_the_file():
    found = instances(3, mask_scores=True)
    results = coco_results([pack(7, found)], {0: 40, 1: 50})
    assert [one["category_id"] for one in results] == [40, 50, 40]
    assert {one["image_id"] for one in results} == {7}
    x0, y0, x1, y1 = found.pred_boxes.tensor[1].tolist()
    assert results[1]["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=1e-5)
    assert results[1]["score"] == found.scores[1].item()
    assert results[1]["mask_score"] == found.mask_scores[1].item()
    np.testing.assert_array_equal(coco_mask.decode(results[2]["segmentation"]), found.pred_masks[2].numpy())


def test_without_masks_or_scores_of_their_own_the_keys_are_absent():
    (boxes,) = coco_results([pack(1, instances(1, masks=False))], {0: 1})
    (masks,) = coco_results([pack(1, instances(1))], {0: 1})
    assert set(boxes) == {"image_id", "category_id", "bbox", "score"}
    assert set(masks) == {"image_id", "category_id", "bbox", "score", "segmentation"}
