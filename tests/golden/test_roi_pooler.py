"""Pooling of boxes from a pyramid against stored results."""

import math

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes

from tests.golden.cases import GoldenCase, golden_cases


@pytest.mark.parametrize("case", golden_cases("roi_pooler"))
def test_pooled_features_and_levels_equal_the_stored_ones(case: GoldenCase) -> None:
    config = case.config
    maps = [case.tensor(f"in.p{int(math.log2(stride))}") for stride in config["strides"]]
    boxes = [Boxes(case.tensor(f"in.boxes.{image}")) for image in range(len(maps[0]))]
    canonical = (config["canonical_box_size"], config["canonical_level"])
    levels = assign_boxes_to_levels(boxes, config["min_level"], config["max_level"], *canonical)
    assert torch.equal(levels, case.tensor("out.level"))
    pooler = ROIPooler(config["output_size"], [1 / stride for stride in config["strides"]], 0, "ROIAlignV2", *canonical)
    close = {"atol": case.tolerance["atol"], "rtol": case.tolerance["rtol"]}
    torch.testing.assert_close(pooler(maps, boxes), case.tensor("out.pooled"), **close)
