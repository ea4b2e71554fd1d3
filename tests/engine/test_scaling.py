"""The scaling contract: what fewer GPUs, less memory and another batch change, and what they leave alone."""

import copy
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig, OmegaConf

from eva02_det.engine.memory import estimate_memory
from eva02_det.engine.scaling import HEADROOM, apply_scaling, images_per_step, memory_limit, warmup_iterations
from eva02_det.utils.config import load_config
from eva02_det.utils.errors import UserError
from tests.configs.recipes import load

STEPPED = "coco/eva02_l_1024"  # 60 000 x 144 images at 6e-5
AVERAGED = "coco/eva02_l_1536_from_o365"  # 40 000 x 64 images at 4e-5, constant, weight average of decay 0.9999


def recipe(name: str = STEPPED, **train: Any) -> DictConfig:
    config = load(name)
    config.train.update(train)
    return config


def plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config)


def schedule(config: DictConfig, points: int = 200) -> list[float]:
    """Factors at equal shares of the run."""
    factor = instantiate(config.lr_multiplier)
    return [factor(share / points) for share in range(points)]


@pytest.mark.parametrize("processes", [1, 2, 3, 8, 16, 144])
def test_another_number_of_processes_changes_nothing_that_a_step_depends_on(processes: int):
    config, before = recipe(), plain(recipe())
    apply_scaling(config, processes)
    assert images_per_step(config) == 144
    assert config.dataloader.train.total_batch_size % processes == 0
    after = plain(config)
    for tree in (before, after):
        del tree["dataloader"]["train"]["total_batch_size"], tree["train"]["accumulate"]
    assert after == before


@pytest.mark.parametrize("gib", [20, 24, 40, 80])
def test_less_memory_is_made_up_for_by_accumulation(gib: float):
    config = recipe(memory_gib=gib)
    before = estimate_memory(config, 8)
    said = apply_scaling(config, 8)
    each = config.dataloader.train.total_batch_size // 8
    assert images_per_step(config) == 144
    assert before.total_gib(each) <= HEADROOM * gib
    more = min(n for n in range(each + 1, 19) if 18 % n == 0) if each < 18 else None
    assert more is None or before.total_gib(more) > HEADROOM * gib  # no fewer loader batches would do
    assert f"{144} images a step = 8 processes x {each}" in said[0]
    assert f"{gib:.1f} GiB" in said[-1]


def test_activation_checkpointing_is_switched_on_where_not_one_image_fits_without():
    config = recipe("objects365/eva02_l_1536", memory_gib=16)
    assert estimate_memory(config, 1).total_gib(1) > 16
    said = apply_scaling(config, 1)
    assert config.model.backbone.net.use_act_checkpoint
    assert any("activation checkpointing" in one for one in said)
    assert estimate_memory(config, 1).total_gib(1) <= HEADROOM * 16


def test_memory_that_never_suffices_is_one_sentence():
    with pytest.raises(UserError, match=r"one image needs \d+\.\d GiB.*train\.memory_gib.*smaller model"):
        apply_scaling(recipe(memory_gib=6), 8)


def test_images_that_cannot_be_shared_are_one_sentence_with_what_could_be():
    with pytest.raises(UserError, match=r"144 images.*5 processes; use 4 or 6 processes, or train\.batch=145"):
        apply_scaling(recipe(), 5)


@pytest.mark.parametrize("new", [1, 16, 36, 72, 288])
def test_another_batch_sees_as_many_images_on_the_same_course(new: int):
    config, before = recipe(batch=new), recipe()
    apply_scaling(config, 1)
    k = new / 144
    assert images_per_step(config) == new
    assert config.train.max_iter == 60_000 / k
    assert warmup_iterations(config) == 1000 / k
    assert list(config.lr_multiplier.scheduler.milestones) == [48_000 / k, 54_000 / k]
    assert (config.train.eval_period, config.train.checkpointer.period) == (5000 / k, 5000 / k)
    assert schedule(config) == pytest.approx(schedule(before))


@pytest.mark.parametrize(("rule", "factor"), [("sqrt", (16 / 144) ** 0.5), ("linear", 16 / 144), ("none", 1.0)])
def test_the_learning_rate_follows_the_rule_that_is_named(rule: str, factor: float):
    config = recipe(batch=16, lr_rule=rule)
    said = apply_scaling(config, 2)
    assert config.optimizer.lr == pytest.approx(6e-5 * factor)
    assert config.optimizer.params.base_lr == config.optimizer.lr
    assert any(f"lr_rule={rule}" in one for one in said)


def test_a_base_rate_of_its_own_is_scaled_as_well():
    config = recipe(batch=36)
    config.optimizer.params.base_lr = 1e-4
    apply_scaling(config, 1)
    assert (config.optimizer.lr, config.optimizer.params.base_lr) == pytest.approx((3e-5, 5e-5))


def test_the_weight_average_forgets_as_much_per_image():
    config = recipe(AVERAGED, batch=16)
    apply_scaling(config, 1)
    assert config.train.ema.decay**4 == pytest.approx(0.9999)
    assert config.train.max_iter == 160_000


def test_a_run_without_averages_gets_none():
    config = recipe(batch=16)
    apply_scaling(config, 1)
    assert config.train.ema.decay is None


@pytest.mark.parametrize("options", [{}, {"batch": 16}, {"memory_gib": 24}, {"batch": 48, "memory_gib": 24, "lr_rule": "linear"}])
def test_scaling_twice_is_scaling_once(options: dict[str, Any]):
    config = recipe(AVERAGED, **options)
    apply_scaling(config, 8)
    once = copy.deepcopy(plain(config))
    apply_scaling(config, 8)
    assert plain(config) == once


def test_a_saved_config_is_not_scaled_again_but_fitted_to_other_processes(tmp_path: Path):
    config = recipe(AVERAGED, batch=16, memory_gib=24)
    apply_scaling(config, 2)
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    again = load_config(tmp_path / "config.yaml")
    apply_scaling(again, 16)
    assert (again.optimizer.lr, again.train.max_iter, again.train.ema.decay) == (
        config.optimizer.lr,
        config.train.max_iter,
        config.train.ema.decay,
    )
    assert (again.dataloader.train.total_batch_size, again.train.accumulate) == (16, 1)
    assert config.train.accumulate == 4


def test_accumulation_that_was_asked_for_is_kept_where_it_is_possible():
    config = recipe(accumulate=3)
    config.dataloader.train.total_batch_size = 48
    apply_scaling(config, 8)
    assert (config.dataloader.train.total_batch_size, config.train.accumulate) == (48, 3)
    apply_scaling(config, 36)  # 48 images do not divide by 36, 144 do
    assert images_per_step(config) == 144
    assert config.dataloader.train.total_batch_size % 36 == 0


@pytest.mark.parametrize("value", [0, -4, 2.5, "many"])
def test_a_batch_that_is_no_number_of_images_is_refused(value: Any):
    with pytest.raises(UserError, match=r"train\.batch=.*whole number"):
        apply_scaling(recipe(batch=value), 1)


@pytest.mark.parametrize(("key", "value"), [("lr_rule", "cubic"), ("memory_gib", -3)])
def test_an_unknown_rule_or_an_impossible_limit_is_refused(key: str, value: Any):
    with pytest.raises(UserError, match=f"train.{key}={value}"):
        apply_scaling(recipe(**{key: value, "batch": 16}), 1)


def test_a_run_too_short_for_its_milestones_is_refused():
    config = recipe(batch=144 * 20_000)
    with pytest.raises(UserError, match=r"leaves 3 iterations, too few for the milestones"):
        apply_scaling(config, 1)


def test_what_was_done_is_said_in_sentences():
    said = " ".join(apply_scaling(recipe(AVERAGED, batch=16, memory_gib=24), 4))
    for told in ("40,000 -> 160,000 iterations", "2,560,000 images", "400 -> 1,600", "4e-05 -> 2e-05", "0.9999 -> 0.999975"):
        assert told in said


def test_federated_classes_drawn_for_fewer_images_at_a_time_are_mentioned():
    said = apply_scaling(recipe("lvis/eva02_b_1024", memory_gib=24), 8)
    assert any("federated loss" in one for one in said)
    assert not any("federated loss" in one for one in apply_scaling(recipe(memory_gib=24), 8))


def test_a_limit_that_is_set_wins_over_the_gpu_of_the_machine():
    assert memory_limit(recipe(memory_gib=17)).gib == 17
    assert memory_limit(recipe(memory_gib=17)).chosen
    without = memory_limit(recipe(device="cpu"))
    assert without is None


def test_a_config_without_training_data_is_left_alone():
    config = recipe()
    del config.dataloader["train"]
    assert apply_scaling(config, 7) == []
