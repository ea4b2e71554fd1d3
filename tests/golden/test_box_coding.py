"""Boxes to offsets and back against stored ones."""

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform

from tests.golden.cases import GoldenCase, golden_cases


@pytest.mark.parametrize("case", golden_cases("box_coding"))
def test_offsets_and_boxes_equal_the_stored_ones(case: GoldenCase) -> None:
    source, target, deltas = (case.tensor(f"in.{name}") for name in ("source", "target", "deltas"))
    close = {"atol": case.tolerance["atol"], "rtol": case.tolerance["rtol"]}
    for weights in case.config["weights"]:
        coder = Box2BoxTransform(tuple(weights))
        key = "_".join(map(str, weights))
        torch.testing.assert_close(coder.get_deltas(source, target), case.tensor(f"out.encoded.{key}"), **close)
        torch.testing.assert_close(coder.apply_deltas(deltas, source), case.tensor(f"out.decoded.{key}"), **close)
