"""Small trainings that are told to stop, killed or disturbed at a chosen draw, and what they leave behind."""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyCall as L
from detectron2.utils import comm
from omegaconf import DictConfig

from eva02_det.data.jitter_mapper import JitterMapper
from eva02_det.engine.train import train
from eva02_det.launch import preemption
from eva02_det.launch.preemption import Stopped
from tests.engine.small_run import small_config

STEPS = 6


class Signal:
    """Sent to the process that made this, or to the one it is called in, once the count in `file` is down; counted a call."""

    def __init__(self, file: str, number: int, *, here: bool = False) -> None:
        self.file, self.number, self.here, self.maker = Path(file), number, here, os.getpid()

    def __call__(self) -> None:
        if self.file.exists() and (left := int(self.file.read_text() or 1)) >= 0:
            self.file.write_text(str(left - 1))
            if left == 0:
                os.kill(os.getpid() if self.here else self.maker, self.number)


class Disturbed(JitterMapper):
    """The mapper of training with a signal."""

    def __init__(self, is_train: bool, *, signal: Signal, **options: Any) -> None:
        super().__init__(is_train, **options)
        self.signal = signal

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        self.signal()
        return super().__call__(record)


def config_of(run: Path, *, workers: int = 0, grouped: bool = False, period: int = 1000) -> DictConfig:
    """A training of `STEPS` steps with an average and drop path, not evaluated."""
    config = small_config(run, STEPS, train={"ema_decay": 0.5})
    config.model.backbone.net.drop_path_rate = 0.2
    config.dataloader.train.num_workers, config.dataloader.train.aspect_ratio_grouping = workers, grouped
    config.dataloader.evaluator, config.train.checkpointer.period = None, period
    return config


def disturb(mapper: DictConfig, file: Path, number: int, *, here: bool = False) -> None:
    """Let a mapper of a config send a signal once the count in `file` is down."""
    mapper._target_ = f"{Disturbed.__module__}.{Disturbed.__qualname__}"
    mapper.signal = L(Signal)(file=str(file), number=int(number), here=here)


def train_with_stops(run: Path, draws: list[int], **options: Any) -> list[int]:
    """Train to the end, told to stop (USR2) after so many draws of each part; the iterations that the stops left."""
    left = []
    for part in [*draws, None]:
        file = run.parent / f"{run.name}_{comm.get_rank()}.count"
        file.unlink(missing_ok=True)
        if part is not None and comm.get_rank() == 0:  # one rank alone is told
            file.write_text(str(part))
        try:
            config = config_of(run, **options)
            disturb(config.dataloader.train.mapper, file, signal.SIGUSR2)
            train(config, resume=bool(left))
        except Stopped:
            left.append(len(losses(run)))
            forget_the_notice()
    return left


def forget_the_notice() -> None:
    """A run that was told to stop ends its process; here the next one begins in the same."""
    with contextlib.suppress(KeyError), preemption.watch():
        raise KeyError


def losses(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "losses.jsonl").read_text().splitlines()]


def result_of(run: Path) -> dict[str, Any]:
    """Everything that a training computed: losses of each step, and weights, averages and optimizer state at its end."""
    final = torch.load(run / "model_final.pth", weights_only=True)
    state = final["trainer"]["optimizer"]["state"]
    moments = {f"{key}.{name}": value for key, one in state.items() for name, value in one.items()}
    return {
        "losses": losses(run),
        "tensors": {**final["model"], **{f"ema/{k}": v for k, v in final["ema_state"].items()}, **moments},
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["losses"] == other["losses"]
    assert one["tensors"].keys() == other["tensors"].keys()
    for name, value in one["tensors"].items():
        torch.testing.assert_close(value, other["tensors"][name], rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")


def in_two_processes(root: str, workers: int) -> None:
    """What each of two ranks runs: a training without and one with two stops."""
    torch.set_num_threads(1)
    home = Path(root)
    train(config_of(home / "whole", workers=workers))
    left = train_with_stops(home / "parts", [3, 2], workers=workers)
    if comm.is_main_process():
        (home / "stops.json").write_text(json.dumps(left))


if __name__ == "__main__":  # FOLDER COUNT: a training that is killed after so many draws
    target = Path(sys.argv[1])
    (target / "killed.count").write_text(sys.argv[2])
    killed = config_of(target / "killed", workers=2, period=2)
    disturb(killed.dataloader.train.mapper, target / "killed.count", signal.SIGKILL)
    train(killed)
