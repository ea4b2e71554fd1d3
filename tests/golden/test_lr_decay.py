"""Learning rate and weight decay of every parameter, and the learning rate over the whole training, as our recipes set them."""

import re
from typing import Any

import pytest
import torch
from detectron2.config import instantiate
from detectron2.solver import LRMultiplier
from omegaconf import DictConfig

from tests.configs.recipes import load, own_recipes
from tests.golden.cases import GoldenCase, golden_cases


def recipes() -> list[DictConfig]:
    """All recipes of the two published sizes with masks, but not those that differ from another one in nothing but the start."""
    return [load(name) for name in own_recipes() if re.match("(coco|lvis)/eva02_[bl]_", name) and not name.endswith("_m38m")]


def recipe_of(described: dict[str, Any]) -> DictConfig:
    """The one recipe that sets a network, its data and its length as described."""
    (config,) = (one for one in recipes() if all(described[key] == value for key, value in describes(one).items()))
    return config


def describes(config: DictConfig) -> dict[str, Any]:
    """What tells recipes apart, in the words of the fixtures."""
    net = config.model.backbone.net
    return {
        "embed_dim": net.embed_dim,
        "window_size": net.window_size,
        "window_block_indexes": [i for i in range(net.depth) if i not in net.global_block_indexes],
        "img_size": config.model.backbone.square_pad,
        "num_classes": config.model.roi_heads.num_classes,
        "max_iter": config.train.max_iter,
    }


def set_per_parameter(config: DictConfig) -> dict[str, tuple[float, float]]:
    """Name -> (learning rate as a factor of the base rate, weight decay), read from the built optimiser."""
    with torch.device("meta"):
        model = instantiate(config.model)
    config.optimizer.params.model = model
    groups = instantiate(config.optimizer).param_groups
    of = {id(p): (g["lr"] / config.optimizer.lr, g["weight_decay"]) for g in groups for p in g["params"]}
    return {name: of[id(parameter)] for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("case", golden_cases("lr_decay"))
def test_every_parameter_learns_and_decays_as_released(case: GoldenCase) -> None:
    config = recipe_of(case.config)
    expected = case.json("params.json")
    found = set_per_parameter(config)
    assert found.keys() == expected.keys()
    rtol = case.tolerance["rtol"]
    wrong = {name: (found[name], expected[name]) for name in expected if found[name] != pytest.approx(expected[name], rel=rtol)}
    assert not wrong
    optimizer = config.optimizer
    released = {"lr": case.config["base_lr"], "eps": case.config["adam_eps"], "weight_decay": case.config["weight_decay"]}
    assert {key: optimizer[key] for key in released} == pytest.approx(released, rel=rtol)
    assert list(optimizer.betas) == case.config["betas"]


@pytest.mark.parametrize("case", golden_cases("lr_decay"))
def test_the_learning_rate_follows_the_released_one_over_the_whole_training(case: GoldenCase) -> None:
    config = recipe_of(case.config)
    factor = instantiate(config.lr_multiplier)
    for iteration, expected in case.json("lr_multiplier.json").items():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.optimizer.lr)
        optimizer.param_groups[0]["initial_lr"] = config.optimizer.lr
        LRMultiplier(optimizer, multiplier=factor, max_iter=config.train.max_iter, last_iter=int(iteration) - 1)
        rate = optimizer.param_groups[0]["lr"] / case.config["base_lr"]
        assert rate == pytest.approx(expected, rel=case.tolerance["lr_multiplier_rtol"]), iteration


@pytest.mark.parametrize("case", golden_cases("lr_decay"))
def test_the_other_settings_are_the_released_ones(case: GoldenCase) -> None:
    config, told = recipe_of(case.config), case.config
    last = config.model.roi_heads.box_predictors[-1]
    assert config.dataloader.train.total_batch_size == told["total_batch_size"]
    assert config.model.backbone.net.drop_path_rate == told["drop_path_rate"]
    assert (last.test_score_thresh, last.test_topk_per_image) == (told["box_score_threshold"], told["topk"])
    assert last.get("use_sigmoid_ce", False) == told["sigmoid"]
    assert last.get("use_fed_loss", False) == told["federated"]
    assert last.get("fed_loss_num_classes", 50) == told["fed_classes"]
    assert config.train.amp.enabled == told["amp"]
    assert config.train.ema.decay == (told["ema"]["decay"] if told["ema"]["enabled"] else None)
    assert config.train.clip_grad_norm is None
