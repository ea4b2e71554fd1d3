"""Schedules and parameter groups."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import LinearParamScheduler, MultiStepParamScheduler
from torch import nn


class Net(nn.Module):
    """One of each kind of parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(2))
        self.fc = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.tied = self.fc


def options_of(groups: list[dict], parameter: nn.Parameter) -> dict:
    """The options of the one group that holds `parameter`."""
    [group] = [g for g in groups if any(p is parameter for p in g["params"])]
    return {name: value for name, value in group.items() if name != "params"}


# warm-up: LinearParamScheduler(1, 0) is 1 - t


@pytest.mark.parametrize(("at", "value"), [(0.0, 0.1), (0.1, 0.45), (0.2, 0.8), (0.6, 0.4), (0.99, 0.01)])
def test_a_linear_warmup_ends_where_the_schedule_goes_on(at, value):
    assert WarmupParamScheduler(LinearParamScheduler(1, 0), 0.1, 0.2)(at) == pytest.approx(value)


@pytest.mark.parametrize(("at", "value"), [(0.0, 0.1), (0.1, 0.55), (0.2, 1.0), (0.6, 0.5)])
def test_a_rescaled_schedule_begins_after_the_warmup(at, value):
    assert WarmupParamScheduler(LinearParamScheduler(1, 0), 0.1, 0.2, rescale_interval=True)(at) == pytest.approx(value)


def test_a_constant_warmup_steps_at_its_end():
    schedule = WarmupParamScheduler(LinearParamScheduler(1, 0), 0.1, 0.2, "constant")
    assert [schedule(t) for t in (0.0, 0.19, 0.2)] == pytest.approx([0.1, 0.1, 0.8])


def test_an_unknown_warmup_is_an_error():
    with pytest.raises(ValueError, match="cubic"):
        WarmupParamScheduler(LinearParamScheduler(1, 0), 0.1, 0.2, "cubic")


# learning rates


def optimizer_of(*rates: float) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates], lr=1.0)


def rates_over(optimizer: torch.optim.Optimizer, scheduler: LRMultiplier, steps: int) -> list[list[float]]:
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return seen


def test_each_group_follows_the_schedule_from_its_own_rate():
    optimizer = optimizer_of(0.1, 2.0)
    multiplier = MultiStepParamScheduler([1, 0.1], milestones=[3], num_updates=5)
    seen = rates_over(optimizer, LRMultiplier(optimizer, multiplier, max_iter=5), 5)
    factors = [1, 1, 1, 0.1, 0.1]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor([[0.1 * f, 2.0 * f] for f in factors]))


def test_a_schedule_continues_from_its_state_as_if_it_had_not_stopped():
    schedule = WarmupParamScheduler(LinearParamScheduler(1, 0), 0.1, 0.2)
    whole = optimizer_of(0.3)
    expected = rates_over(whole, LRMultiplier(whole, schedule, max_iter=10), 10)
    first, second = optimizer_of(0.3), optimizer_of(0.3)
    scheduler = LRMultiplier(first, schedule, max_iter=10)
    rates_over(first, scheduler, 4)
    again = LRMultiplier(second, schedule, max_iter=10)
    again.load_state_dict(scheduler.state_dict())
    second.load_state_dict(first.state_dict())
    assert rates_over(second, again, 6) == expected[4:]


def test_a_multiplier_that_is_no_param_scheduler_is_an_error():
    with pytest.raises(ValueError):
        LRMultiplier(optimizer_of(0.1), abs, max_iter=5)


# groups


def test_every_trainable_parameter_is_in_exactly_one_group():
    net = Net()
    groups = get_default_optimizer_params(net, base_lr=1.0, weight_decay=0.1, weight_decay_norm=0.0, bias_lr_factor=2.0)
    members = [parameter for group in groups for parameter in group["params"]]
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    assert len(members) == len(trainable)
    assert {id(parameter) for parameter in members} == {id(parameter) for parameter in trainable}


def test_parameters_of_equal_options_share_a_group():
    assert len(get_default_optimizer_params(Net(), base_lr=1.0, weight_decay=0.1)) == 1
    assert len(get_default_optimizer_params(Net(), base_lr=1.0, weight_decay=0.1, weight_decay_norm=0.0)) == 2


def test_norms_biases_and_named_parameters_get_their_own_options():
    net = Net()
    groups = get_default_optimizer_params(
        net,
        base_lr=1.0,
        weight_decay=0.1,
        weight_decay_norm=0.01,
        bias_lr_factor=2.0,
        overrides={"table": {"weight_decay": 0.0, "lr": 5.0}},
    )
    assert options_of(groups, net.fc.weight) == {"lr": 1.0, "weight_decay": 0.1}
    assert options_of(groups, net.fc.bias) == {"lr": 2.0, "weight_decay": 0.1}
    assert options_of(groups, net.norm.weight) == {"lr": 1.0, "weight_decay": 0.01}
    assert options_of(groups, net.norm.bias) == {"lr": 2.0, "weight_decay": 0.01}
    assert options_of(groups, net.table) == {"lr": 5.0, "weight_decay": 0.0}


def test_the_factor_function_sees_full_names_and_multiplies_the_base_rate():
    net = Net()
    factors = {"fc.weight": 0.1, "fc.bias": 1.0, "norm.weight": 1.0, "norm.bias": 1.0, ".table": 1.0}
    groups = get_default_optimizer_params(net, base_lr=0.5, lr_factor_func=factors.__getitem__)
    assert options_of(groups, net.fc.weight) == {"lr": pytest.approx(0.05)}
    assert options_of(groups, net.norm.weight) == {"lr": 0.5}


def test_decay_of_biases_wins_over_decay_of_norms():
    net = Net()
    groups = get_default_optimizer_params(net, weight_decay=0.1, weight_decay_norm=0.01, weight_decay_bias=0.0)
    assert options_of(groups, net.norm.bias) == {"weight_decay": 0.0}


@pytest.mark.parametrize(
    "options",
    [
        {"bias_lr_factor": 2.0},
        {"lr_factor_func": len},
        {"base_lr": 1.0, "bias_lr_factor": 2.0, "overrides": {"bias": {"lr": 1.0}}},
    ],
)
def test_options_that_contradict_each_other_are_errors(options):
    with pytest.raises(ValueError):
        get_default_optimizer_params(Net(), **options)


def test_the_caller_s_overrides_are_not_changed_by_a_second_call():
    overrides = {"table": {"weight_decay": 0.0}}
    first = get_default_optimizer_params(Net(), base_lr=1.0, overrides=overrides)
    assert overrides == {"table": {"weight_decay": 0.0}}
    assert len(first) == 2


def test_an_optimizer_config_takes_the_model_later():
    config = L(torch.optim.AdamW)(
        params=L(get_default_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0, weight_decay=0.1),
        lr=2e-4,
        betas=(0.9, 0.99),
    )
    net = config.params.model = Net()
    groups = instantiate(config).param_groups
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(2e-4, 0.0), (2e-4, 0.1)}
    assert options_of(groups, net.norm.weight)["weight_decay"] == 0.0
