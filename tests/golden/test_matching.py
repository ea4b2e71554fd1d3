"""Overlaps and the assignment of boxes to ground truth against stored ones."""

import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou

from tests.golden.cases import GoldenCase, golden_cases

MATCHERS = {
    "rpn": Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
    "stage0": Matcher([0.5], [0, 1]),
    "stage2": Matcher([0.7], [0, 1]),
}


@pytest.mark.parametrize("case", golden_cases("matching"))
def test_overlaps_matches_and_labels_equal_the_stored_ones(case: GoldenCase) -> None:
    overlaps = pairwise_iou(Boxes(case.tensor("in.gt")), Boxes(case.tensor("in.anchors")))
    torch.testing.assert_close(overlaps, case.tensor("out.iou"), atol=case.tolerance["iou_atol"], rtol=0)
    for name, matcher in MATCHERS.items():
        matches, labels = matcher(overlaps)
        assert torch.equal(matches, case.tensor(f"out.{name}.match"))
        assert torch.equal(labels, case.tensor(f"out.{name}.label"))


@pytest.mark.parametrize("case", golden_cases("matching"))
def test_without_ground_truth_every_anchor_is_background(case: GoldenCase) -> None:
    stored = case.tensor("out.rpn_no_gt.match")
    matches, labels = MATCHERS["rpn"](torch.zeros(0, len(stored)))
    assert torch.equal(matches, stored)
    assert torch.equal(labels, case.tensor("out.rpn_no_gt.label"))
