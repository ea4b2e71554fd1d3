"""Layer-wise learning rates, the schedules of the recipes worked out by hand, and AdamW in both forms."""

import copy

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf

from configs.common.optim import adamw, constant_schedule, cosine_schedule, step_schedule
from eva02_det.engine.optim import LayerDecay, build_adamw
from eva02_det.utils.errors import UserError


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
    # 40 000 is asked for after the last step
    assert [factor(step / 40_000) for step in (400, 20_000, 39_999, 40_000)] == pytest.approx([1.0, 1.0, 1.0, 1.0])


def test_the_cosine_schedule_is_halfway_down_in_the_middle():
    factor = instantiate(cosine_schedule(1000, warmup=10))
    assert factor(0.5) == pytest.approx(0.505)
    assert factor(1.0) == pytest.approx(0.01)


def steps_of(fused: bool | str, count: int = 25) -> tuple[torch.optim.AdamW, list[torch.Tensor]]:
    """The optimiser and the weights after some steps on a fixed sequence of gradients, in two groups of different rates."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((7, 5), (5,), (3, 4, 2))]
    groups = [{"params": weights[:1], "lr": 1e-3}, {"params": weights[1:], "lr": 5e-2, "weight_decay": 0.3}]
    optimizer = build_adamw(groups, lr=1e-2, weight_decay=0.1, fused=fused)
    for _ in range(count):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
    return optimizer, [weight.detach() for weight in weights]


def test_the_fused_optimiser_takes_the_same_steps_as_the_plain_one():
    (fused, quick), (plain, slow) = steps_of("auto"), steps_of(False)
    assert fused.param_groups[0]["fused"]
    assert not plain.param_groups[0]["fused"]
    for one, other in zip(quick, slow):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_the_fused_optimiser_skips_a_step_that_overflowed_as_the_plain_one_does():
    ends = []
    for fused in (True, False):
        weight = torch.nn.Parameter(torch.ones(4))
        optimizer, scaler = build_adamw([weight], lr=0.1, fused=fused), torch.amp.GradScaler("cpu", init_scale=2.0)
        for factor in (1.0, float("inf"), 1.0):
            optimizer.zero_grad()
            scaler.scale((weight * factor).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        ends.append((weight.detach().clone(), scaler.get_scale()))
    torch.testing.assert_close(ends[0], ends[1])


@pytest.mark.parametrize("options", [{"device": "meta"}, {"dtype": torch.complex64}], ids=["device", "type"])
def test_where_there_is_no_fused_kernel_auto_is_plain_and_true_is_refused(options: dict):
    weight = torch.nn.Parameter(torch.zeros(3, **options))
    assert not build_adamw([weight], lr=0.1, fused="auto").param_groups[0]["fused"]
    assert not build_adamw([{"params": [weight]}], lr=0.1).param_groups[0]["fused"]
    weight.grad = torch.ones_like(weight)
    with pytest.raises(RuntimeError, match="fused"):
        build_adamw([weight], lr=0.1, fused=True).step()


def test_an_unknown_form_is_refused():
    with pytest.raises(UserError, match=r"optimizer\.fused='yes'"):
        build_adamw([torch.nn.Parameter(torch.zeros(1))], lr=0.1, fused="yes")


def test_a_saved_optimiser_goes_on_as_the_other_kind():
    """A run that moves to a machine without the fused kernel takes the same steps."""
    optimizer, weights = steps_of("auto", count=5)
    state = copy.deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        group["fused"] = None
    parameters = [torch.nn.Parameter(weight.clone()) for weight in weights]
    other = build_adamw([{"params": parameters[:1]}, {"params": parameters[1:]}], lr=1e-2, fused=False)
    other.load_state_dict(state)
    for group in (*optimizer.param_groups, *other.param_groups):
        for weight in group["params"]:
            weight.grad = torch.ones_like(weight)
    optimizer.step()
    other.step()
    for one, two in zip((p for g in optimizer.param_groups for p in g["params"]), parameters):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


def test_one_learning_rate_in_the_config_moves_all_groups():
    config = OmegaConf.create({}, flags={"allow_objects": True})
    config.optimizer = adamw(1e-3, depth=2, layer_decay=0.5)
    config.optimizer.lr, config.optimizer.weight_decay = 1e-2, 0.2
    config.optimizer.params.model = torch.nn.Linear(2, 2)
    groups = instantiate(config.optimizer).param_groups
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(1e-2, 0.2)}
