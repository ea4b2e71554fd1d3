"""The training loop, its hooks and the usual start of a run."""

import json
import logging
import random
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig
from detectron2.engine import (
    HookBase,
    SimpleTrainer,
    TrainerBase,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
)
from detectron2.solver import WarmupParamScheduler
from detectron2.utils.events import EventWriter, get_event_storage
from fvcore.common.param_scheduler import CosineParamScheduler
from omegaconf import DictConfig
from torch import nn

from tests.d2lite.workers import Squares, samples


class Count(TrainerBase):
    """A step that does nothing but remember its iteration, and fails in one of them."""

    def __init__(self, fails_at: int = -1) -> None:
        super().__init__()
        self.fails_at = fails_at
        self.seen: list[int] = []

    def run_step(self) -> None:
        self.seen.append(self.storage.iter)
        if self.iter == self.fails_at:
            raise RuntimeError("broken step")


class Diary(HookBase):
    """Remembers when it was called."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self.name, self.diary = name, diary

    def before_train(self) -> None:
        self.diary.append(f"{self.name} before_train")

    def after_train(self) -> None:
        self.diary.append(f"{self.name} after_train {self.trainer.iter}")

    def before_step(self) -> None:
        self.diary.append(f"{self.name} before_step {self.trainer.iter}")

    def after_backward(self) -> None:
        self.diary.append(f"{self.name} after_backward")

    def after_step(self) -> None:
        self.diary.append(f"{self.name} after_step {self.trainer.iter}")

    def state_dict(self) -> dict:
        return {"diary": list(self.diary)}

    def load_state_dict(self, state: dict) -> None:
        self.diary[:] = state["diary"]


class Tally(EventWriter):
    """Counts its calls."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.closed = 0

    def write(self) -> None:
        self.written.append(get_event_storage().iter)

    def close(self) -> None:
        self.closed += 1


def simple_trainer(steps: int = 6, lr: float = 0.1, model: nn.Module | None = None) -> SimpleTrainer:
    model = model or Squares()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    return SimpleTrainer(model, samples(4 * steps).split(4), optimizer)


# the loop


def test_hooks_run_in_order_around_each_step():
    diary: list[str] = []
    trainer = Count()
    trainer.register_hooks([Diary("a", diary), None, Diary("b", diary)])
    trainer.train(3, 4)
    moments = ["before_train", "before_step 3", "after_step 3", "after_train 4"]
    assert diary == [f"{name} {moment}" for moment in moments for name in "ab"]


def test_the_storage_has_the_iteration_of_the_step():
    trainer = Count()
    trainer.train(5, 8)
    assert trainer.seen == [5, 6, 7]
    assert (trainer.iter, trainer.start_iter, trainer.max_iter) == (8, 5, 8)


def test_an_exception_is_logged_and_raised_after_the_hooks_have_finished(caplog):
    diary: list[str] = []
    trainer = Count(fails_at=1)
    trainer.register_hooks([Diary("a", diary)])
    logging.getLogger("detectron2").propagate = True
    with caplog.at_level(logging.ERROR), pytest.raises(RuntimeError, match="broken step"):
        trainer.train(0, 5)
    assert diary[-1] == "a after_train 1"
    assert "broken step" in caplog.text


def test_hooks_must_be_hooks():
    with pytest.raises((TypeError, AssertionError)):
        Count().register_hooks([Tally()])


def test_a_trainer_and_its_hooks_continue_from_their_state():
    first, second = Count(), Count()
    diary: list[str] = []
    first.register_hooks([Diary("a", ["written"])])
    second.register_hooks([Diary("b", diary)])
    first.train(0, 3)
    second.load_state_dict(first.state_dict())
    assert second.iter == 3
    assert diary[0] == "written"


def test_the_state_of_an_absent_hook_is_left_out_with_a_warning(caplog):
    logging.getLogger("detectron2").propagate = True
    trainer = Count()
    with caplog.at_level(logging.WARNING):
        trainer.load_state_dict({"iteration": 4, "hooks": {"Gone": {"x": 1}}})
    assert trainer.iter == 4
    assert "Gone" in caplog.text


# the simple trainer


def test_training_lowers_the_loss_and_stores_each_part_of_it():
    trainer = simple_trainer(steps=40)
    trainer.train(0, 40)
    total = [value for value, _ in trainer.storage.history("total_loss").values()]
    parts = [[value for value, _ in trainer.storage.history(name).values()] for name in ("loss_square", "loss_size")]
    torch.testing.assert_close(torch.tensor(total), torch.tensor(parts).sum(0))
    assert np.mean(total[-10:]) < np.mean(total[:10])
    assert len(trainer.storage.history("data_time").values()) == 40


def test_a_step_is_one_of_the_optimizer_on_the_summed_loss():
    trainer, model = simple_trainer(steps=1), Squares()
    trainer.train(0, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    sum(model(samples(4)).values()).backward()
    optimizer.step()
    torch.testing.assert_close(trainer.model.state_dict(), model.state_dict())


def test_hooks_see_the_gradients_before_they_are_used():
    diary: list[str] = []
    trainer = simple_trainer(steps=1)
    trainer.register_hooks([Diary("a", diary)])
    trainer.train(0, 1)
    assert diary.index("a before_step 0") < diary.index("a after_backward") < diary.index("a after_step 0")


def test_a_loss_that_is_not_finite_stops_training_and_names_the_iteration():
    batches = [*samples(8).split(4), torch.full((4, 3), float("inf"))]
    model = Squares()
    trainer = SimpleTrainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(FloatingPointError, match="iteration=2"):
        trainer.train(0, 3)
    assert all(parameter.isfinite().all() for parameter in model.parameters()), "the step was not taken"


def test_losses_are_gathered_each_period():
    model = Squares()
    batches = samples(24).split(4)
    trainer = SimpleTrainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.1), gather_metric_period=3)
    trainer.train(0, 6)
    assert [at for _, at in trainer.storage.history("total_loss").values()] == [2, 5]


def test_a_model_in_eval_mode_is_noticed():
    trainer = simple_trainer()
    trainer.model.eval()
    with pytest.raises(AssertionError):
        trainer.train(0, 1)


def checkpointed(folder: Path, steps: int, skip: int = 0) -> tuple[SimpleTrainer, DetectionCheckpointer]:
    """A trainer with a schedule, whose data begin after `skip` batches, and what saves it."""
    model = Squares()
    trainer = SimpleTrainer(model, samples(4 * steps).split(4)[skip:], torch.optim.AdamW(model.parameters(), lr=0.1))
    checkpointer = DetectionCheckpointer(model, str(folder), trainer=trainer)
    schedule = WarmupParamScheduler(CosineParamScheduler(1, 0), 0.1, 0.3)
    trainer.register_hooks([hooks.LRScheduler(scheduler=schedule), SaveAfterStep4(checkpointer)])
    return trainer, checkpointer


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(tmp_path):
    whole, _ = checkpointed(tmp_path / "whole", 10)
    (tmp_path / "whole").mkdir()
    whole.train(0, 10)
    (tmp_path / "parts").mkdir()
    first, _ = checkpointed(tmp_path / "parts", 10)
    first.register_hooks([StopAfterStep5()])
    with pytest.raises(KeyboardInterrupt):
        first.train(0, 10)
    second, checkpointer = checkpointed(tmp_path / "parts", 10, skip=4)
    checkpointer.resume_or_load("", resume=True)
    second.train(second.iter + 1, 10)
    torch.testing.assert_close(second.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    rates = [[value for value, at in t.storage.history("lr").values() if at >= 4] for t in (whole, second)]
    assert rates[0] == rates[1]


class SaveAfterStep4(HookBase):
    """A checkpoint, what the loop itself knows included."""

    def __init__(self, checkpointer: DetectionCheckpointer) -> None:
        self.checkpointer = checkpointer

    def after_step(self) -> None:
        if self.trainer.iter == 3:
            self.checkpointer.save("saved", iteration=3)


class StopAfterStep5(HookBase):
    """A run that is interrupted."""

    def after_step(self) -> None:
        if self.trainer.iter == 5:
            raise KeyboardInterrupt


# hooks


def test_the_timer_leaves_out_the_first_iterations():
    trainer = Count()
    trainer.register_hooks([hooks.IterationTimer(warmup_iter=3)])
    trainer.train(0, 5)
    times = trainer.storage.history("time").values()
    assert [at for _, at in times] == [2, 3, 4]
    assert all(seconds >= 0 for seconds, _ in times)


def test_the_timer_survives_a_step_that_fails():
    trainer = Count(fails_at=1)
    trainer.register_hooks([hooks.IterationTimer()])
    with pytest.raises(RuntimeError, match="broken step"):
        trainer.train(0, 5)


def test_writers_write_each_period_at_the_last_step_and_once_more_at_the_end():
    tally, trainer = Tally(), Count()
    trainer.register_hooks([hooks.PeriodicWriter([tally], period=3)])
    trainer.train(0, 8)
    assert tally.written == [2, 5, 7, 8]
    assert tally.closed == 1


def test_the_stored_rate_is_that_of_the_largest_group():
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(4)]
    several = torch.optim.SGD([{"params": parameters[:1], "lr": 1.0}, {"params": parameters[1:], "lr": 2.0}], lr=0)
    single = torch.optim.SGD([{"params": [p], "lr": lr} for p, lr in zip(parameters, (1.0, 3.0, 3.0, 2.0))], lr=0)
    assert hooks.LRScheduler.get_best_param_group_id(several) == 1
    assert hooks.LRScheduler.get_best_param_group_id(single) == 1


# the usual start


@pytest.fixture
def _loggers() -> Iterator[None]:
    """Takes away what default_setup adds to the loggers."""
    names = ("detectron2", "fvcore")
    before = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).propagate) for name in names}
    yield
    for name, (handlers, propagate) in before.items():
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).propagate = propagate


def config(folder: Path, seed: int = 3) -> DictConfig:
    return DictConfig({"train": {"output_dir": str(folder), "seed": seed, "cudnn_benchmark": False}, "x": {"y": [1, 2]}})


@pytest.mark.usefixtures("_loggers")
def test_the_set_up_saves_the_config_and_a_log_with_the_surroundings(tmp_path):
    file = tmp_path / "source.py"
    file.write_text("# the config as it was written\n")
    default_setup(config(tmp_path / "out"), Namespace(config_file=str(file), eval_only=False))
    assert LazyConfig.load(str(tmp_path / "out/config.yaml")) == config(tmp_path / "out")
    log = (tmp_path / "out/log.txt").read_text()
    assert torch.__version__ in log
    assert "the config as it was written" in log


@pytest.mark.usefixtures("_loggers")
def test_the_set_up_seeds_every_generator(tmp_path):
    def draw(seed: int) -> tuple[float, float, float]:
        default_setup(config(tmp_path, seed), Namespace())
        return random.random(), float(np.random.rand()), torch.rand(()).item()

    assert draw(5) == draw(5)
    assert draw(5) != draw(6)
    assert draw(-1) != draw(-1)


def test_the_default_writers_write_json_lines_and_tensorboard_files(tmp_path):
    trainer = Count()
    writers = default_writers(str(tmp_path / "out"), 4)
    trainer.register_hooks([hooks.IterationTimer(warmup_iter=1), hooks.PeriodicWriter(writers, period=2)])
    trainer.train(0, 4)
    lines = [json.loads(line) for line in (tmp_path / "out/metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 3]
    assert list((tmp_path / "out").glob("events.out.tfevents.*"))


def test_the_command_line_has_the_options_of_training_tools():
    places = ["--num-gpus", "8", "--num-machines", "2", "--machine-rank", "1", "--dist-url", "tcp://h:1"]
    rest = ["--config-file", "c.py", "--resume", "--eval-only", "a.b=1", "c=2"]
    options = default_argument_parser().parse_args(places + rest)
    assert vars(options) == {
        "config_file": "c.py",
        "num_gpus": 8,
        "num_machines": 2,
        "machine_rank": 1,
        "dist_url": "tcp://h:1",
        "resume": True,
        "eval_only": True,
        "opts": ["a.b=1", "c=2"],
    }


def test_the_command_line_without_options_is_one_process_on_this_machine():
    options = default_argument_parser().parse_args([])
    assert (options.num_gpus, options.num_machines, options.machine_rank, options.opts) == (1, 1, 0, [])
    assert options.dist_url.startswith("tcp://127.0.0.1:")
    assert options.resume is options.eval_only is False
