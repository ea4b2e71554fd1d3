"""Calibrated mask scores against the reference."""

import pytest
import torch
from detectron2.structures import Instances

from eva02_det.modeling.rescorers import Maskness
from tests.golden.cases import GoldenCase, golden_cases


def detections(case: GoldenCase) -> Instances:
    return Instances((100, 100), scores=case.tensor("in.scores"), pred_masks=case.tensor("in.masks"))


@pytest.mark.parametrize("case", golden_cases("maskness"))
def test_mask_scores_are_those_of_the_reference_and_scores_stay(case: GoldenCase) -> None:
    rescored = Maskness(threshold=case.config["maskness_threshold"])(detections(case))
    tolerance = {"atol": case.tolerance["atol"], "rtol": case.tolerance["rtol"]}
    torch.testing.assert_close(rescored.mask_scores, case.tensor("out.scores"), **tolerance)
    assert torch.equal(rescored.scores, case.tensor("in.scores"))


@pytest.mark.parametrize("case", golden_cases("maskness"))
def test_scores_of_boxes_too_are_the_same_numbers_in_descending_order(case: GoldenCase) -> None:
    rescored = Maskness(threshold=case.config["maskness_threshold"], applies_to="boxes_and_masks")(detections(case))
    expected = case.tensor("out.scores").sort(descending=True).values
    torch.testing.assert_close(rescored.scores, expected, atol=case.tolerance["atol"], rtol=case.tolerance["rtol"])
    assert torch.equal(rescored.scores, rescored.mask_scores)
