"""Cutting training targets out of masks, and pasting predictions, against stored results."""

import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import BitMasks, Boxes, PolygonMasks
from torch import Tensor

from tests.golden.cases import GoldenCase, golden_cases


def most_wrong_pixels(found: Tensor, stored: Tensor) -> int:
    """Differing pixels of the worst mask."""
    assert found.shape == stored.shape
    return int((found.bool() != stored.bool()).flatten(1).sum(dim=1).max())


@pytest.mark.parametrize("case", golden_cases("mask_targets"))
def test_targets_cut_from_polygons_equal_the_stored_ones(case: GoldenCase) -> None:
    masks = PolygonMasks([[np.array(flat)] for flat in case.json("polygons.json")])
    targets = masks.crop_and_resize(case.tensor("in.boxes"), case.config["size"])
    stored = case.tensor("out.target_from_polygons")
    assert most_wrong_pixels(targets, stored) <= case.tolerance["pixels_different_per_mask"]


@pytest.mark.parametrize("case", golden_cases("mask_targets"))
def test_targets_cut_from_bitmaps_equal_the_stored_ones(case: GoldenCase) -> None:
    targets = BitMasks(case.tensor("in.bitmaps")).crop_and_resize(case.tensor("in.boxes"), case.config["size"])
    stored = case.tensor("out.target_from_bitmaps")
    assert most_wrong_pixels(targets, stored) <= case.tolerance["pixels_different_per_mask"]


@pytest.mark.parametrize("case", golden_cases("mask_targets"))
def test_pasted_masks_equal_the_stored_ones(case: GoldenCase) -> None:
    boxes, shape = Boxes(case.tensor("in.paste_boxes")), tuple(case.config["image"])
    pasted = paste_masks_in_image(case.tensor("in.mask_probs"), boxes, shape, threshold=0.5)
    assert pasted.dtype == torch.bool
    assert most_wrong_pixels(pasted, case.tensor("out.pasted")) <= case.tolerance["pixels_different_per_mask"]
