"""Layer-wise learning rates and the schedules of the recipes, worked out by hand."""

import pytest
from detectron2.config import instantiate

from configs.common.optim import constant_schedule, cosine_schedule, step_schedule
from eva02_det.engine.optim import LayerDecay


@pytest.mark.parametrize(
    ("name", "exponent"),
    [
        ("backbone.net.patch_embed.proj.weight", 13),
        ("backbone.net.pos_embed", 13),
        ("backbone.net.blocks.0.norm1.weight", 12),
        ("backbone.net.blocks.11.mlp.w3.bias", 1),
        ("backbone.simfp_2.0.weight", 0),
        ("roi_heads.mask_head.predictor.bias", 0),
    ],
)
def test_a_layer_further_from_the_output_learns_more_slowly(name: str, exponent: int):
    assert LayerDecay(rate=0.7, depth=12)(name) == pytest.approx(0.7**exponent)


def test_the_step_schedule_warms_up_and_falls_tenfold_at_each_milestone():
    factor = instantiate(step_schedule(60_000, milestones=(48_000, 54_000), warmup=1000))
    at = {step: factor(step / 60_000) for step in (0, 500, 1000, 47_999, 48_000, 53_999, 54_000, 59_999)}
    assert at[0] == pytest.approx(0.001)
    assert at[500] == pytest.approx(0.5005)
    assert [at[s] for s in (1000, 47_999)] == pytest.approx([1.0, 1.0])
    assert [at[s] for s in (48_000, 53_999)] == pytest.approx([0.1, 0.1])
    assert [at[s] for s in (54_000, 59_999)] == pytest.approx([0.01, 0.01])


def test_the_constant_schedule_stays_at_one_after_its_warm_up():
    factor = instantiate(constant_schedule(40_000, warmup=400))
    assert factor(0) == pytest.approx(0.001)
    assert [factor(step / 40_000) for step in (400, 20_000, 39_999)] == pytest.approx([1.0, 1.0, 1.0])


def test_the_cosine_schedule_is_halfway_down_in_the_middle():
    factor = instantiate(cosine_schedule(1000, warmup=10))
    assert factor(0.5) == pytest.approx(0.505)
    assert factor(1.0) == pytest.approx(0.01)
