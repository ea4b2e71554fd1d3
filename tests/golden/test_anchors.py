"""Anchors of the proposal network against stored ones."""

import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

from tests.golden.cases import GoldenCase, golden_cases


@pytest.mark.parametrize("case", golden_cases("anchors"))
def test_anchors_equal_the_stored_ones(case: GoldenCase) -> None:
    config = case.config
    generator = DefaultAnchorGenerator(
        sizes=config["sizes"], aspect_ratios=[config["aspect_ratios"]], strides=config["strides"], offset=config["offset"]
    )
    found = generator([torch.zeros(1, 1, *size) for size in config["map_sizes"]])
    assert len(found) == len(config["strides"])
    for level, boxes in enumerate(found, start=2):
        torch.testing.assert_close(boxes.tensor, case.tensor(f"out.p{level}"), atol=case.tolerance["atol"], rtol=0)
