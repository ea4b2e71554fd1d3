"""Levels of the simple feature pyramid on a small backbone against stored ones."""

import pytest
import torch
from detectron2.modeling import SimpleFeaturePyramid
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from tests.golden.cases import GoldenCase, golden_cases
from tests.golden.test_backbone import build


@pytest.mark.parametrize("case", golden_cases("pyramid"))
def test_levels_equal_the_stored_ones(case: GoldenCase) -> None:
    config = case.config
    pyramid = SimpleFeaturePyramid(
        net=build(config["net"]),
        in_feature="last_feat",
        out_channels=config["out_channels"],
        scale_factors=tuple(config["scale_factors"]),
        top_block=LastLevelMaxPool(),
        norm="LN",
        square_pad=config["net"]["img_size"],
    ).eval()
    pyramid.load_state_dict({key: value for key, value in case.weights().items() if ".freqs_" not in key})
    with torch.no_grad():
        levels = pyramid(case.tensor("in.image"))
    stored = {key.removeprefix("out."): case.tensor(key) for key in case.tensors if key.startswith("out.p")}
    assert set(levels) == set(stored)
    for name, level in levels.items():
        torch.testing.assert_close(level, stored[name], atol=case.tolerance["atol"], rtol=case.tolerance["rtol"])
