"""What happens beside the training steps."""

from __future__ import annotations

import datetime
import logging
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as TorchScheduler

from ..solver import LRMultiplier
from ..utils.events import EventWriter
from .train_loop import HookBase

__all__ = ["IterationTimer", "LRScheduler", "PeriodicWriter"]


class IterationTimer(HookBase):
    """Stores the seconds of each step as "time", and says at the end how long the run took.

    warmup_iter: first iterations that are left out. Time between steps counts for hooks.
    """

    def __init__(self, warmup_iter: int = 3) -> None:
        self._warmup_iter = warmup_iter
        self._step, self._steps, self._all = Timer(), Timer(), Timer()

    def before_train(self) -> None:
        self._all.reset()
        self._restart_steps()

    def before_step(self) -> None:
        self._step.reset()
        self._steps.resume()

    def after_step(self) -> None:
        done = self.trainer.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step.seconds())
            self._steps.pause()
        else:
            self._all.reset()
            self._restart_steps()

    def after_train(self) -> None:
        if not self._steps.is_paused():
            self._steps.pause()  # a step was broken off
        timed = self.trainer.iter - self.trainer.start_iter - self._warmup_iter + 1
        steps_s, all_s = self._steps.seconds(), self._all.seconds()
        if timed > 0 and steps_s > 0:
            logging.getLogger(__name__).info(f"{timed} iterations in {_clock(steps_s)}, {steps_s / timed:.4f} s each")
        logging.getLogger(__name__).info(f"training took {_clock(all_s)}, of which hooks {_clock(all_s - steps_s)}")

    def _restart_steps(self) -> None:
        self._steps.reset()
        self._steps.pause()


class PeriodicWriter(HookBase):
    """Lets writers write each `period` iterations and at the end."""

    def __init__(self, writers: Iterable[EventWriter], period: int = 20) -> None:
        self._writers = list(writers)
        for writer in self._writers:
            if not isinstance(writer, EventWriter):
                raise TypeError(f"{writer!r} is not an EventWriter")
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            self._write()

    def after_train(self) -> None:
        self._write()  # what other hooks stored last, such as an evaluation
        for writer in self._writers:
            writer.close()

    def _write(self) -> None:
        for writer in self._writers:
            writer.write()


class LRScheduler(HookBase):
    """Steps a scheduler and stores the learning rate as "lr".

    optimizer, scheduler: by default the trainer's. scheduler: one of torch's, or a fvcore ParamScheduler that multiplies.
    """

    def __init__(self, optimizer: Optimizer | None = None, scheduler: Any = None) -> None:
        self._optimizer = optimizer
        self._scheduler = scheduler

    @property
    def scheduler(self) -> Any:
        return self._scheduler or self.trainer.scheduler  # type: ignore[attr-defined]  # only trainers that have one

    def before_train(self) -> None:
        if self._optimizer is None:
            self._optimizer = self.trainer.optimizer  # type: ignore[attr-defined]  # only trainers that have one
        self._shown = self.get_best_param_group_id(self._optimizer)
        factor = self.scheduler
        if isinstance(factor, ParamScheduler):
            before = self.trainer.iter - 1  # the last iteration that was trained, of a resumed run
            self._scheduler = LRMultiplier(self._optimizer, factor, max_iter=self.trainer.max_iter, last_iter=before)

    @staticmethod
    def get_best_param_group_id(optimizer: Optimizer) -> int:
        """The group whose learning rate stands for all: the largest, or among groups of one the most common rate."""
        groups = optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    def after_step(self) -> None:
        rate = self._optimizer.param_groups[self._shown]["lr"]  # type: ignore[union-attr]  # set in before_train
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict() if isinstance(self.scheduler, TorchScheduler) else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if isinstance(self.scheduler, TorchScheduler):
            self.scheduler.load_state_dict(state_dict)


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=math.floor(seconds)))
