"""The loop that calls a step and its hooks."""

from __future__ import annotations

import logging
import math
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..utils import comm
from ..utils.events import EventStorage, get_event_storage

__all__ = ["HookBase", "SimpleTrainer", "TrainerBase"]

logger = logging.getLogger(__name__)
Losses = Mapping[str, torch.Tensor]


class HookBase:
    """What happens beside the steps; override the moments that matter. The trainer is `self.trainer`."""

    trainer: TrainerBase

    def before_train(self) -> None:
        """Once, before the first step."""

    def after_train(self) -> None:
        """Once, at the end, also when the loop was left by an exception."""

    def before_step(self) -> None:
        """Before each step."""

    def after_backward(self) -> None:
        """In a step, when the gradients are there and the optimizer has not used them."""

    def after_step(self) -> None:
        """After each step."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to know; empty for nothing."""
        return {}


class TrainerBase:
    """A loop from `start_iter` to `max_iter`. Subclasses say what a step is.

    Afterwards `iter == max_iter` tells hooks that training came to its end.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = 0
        self.start_iter = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Add hooks, which run in the order of registration. None is skipped."""
        for hook in hooks:
            if hook is None:
                continue
            if not isinstance(hook, HookBase):
                raise TypeError(f"{hook!r} is not a HookBase")
            hook.trainer = weakref.proxy(self)  # a real reference would be a cycle, and keep the model in memory
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations [start_iter, max_iter)."""
        self.iter, self.start_iter, self.max_iter = start_iter, start_iter, max_iter
        with EventStorage(start_iter) as self.storage, self._reporting():
            self.before_train()
            while self.iter < max_iter:
                for moment in (self.before_step, self.run_step, self.after_step):
                    moment()
                self.iter += 1

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Says where training starts and what stopped it, and calls `after_train` in any case."""
        logger.info(f"training from iteration {self.start_iter} to {self.max_iter}")
        try:
            yield
        except Exception:
            logger.exception(f"training stopped in iteration {self.iter}:")
            raise
        finally:
            self.after_train()

    def before_train(self) -> None:
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        self.storage.iter = self.iter  # scalars of this step belong to this iteration
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        """One iteration."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The iteration, and the states of hooks by the name of their class (of several alike, the first's)."""
        hooks: dict[str, Any] = {}
        for hook in self._hooks:
            state = hook.state_dict()
            if state:
                hooks.setdefault(type(hook).__qualname__, state)
        return {"iteration": self.iter, **({"hooks": hooks} if hooks else {})}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned; the state of a hook that is not registered is left, with a warning."""
        self.iter = state_dict["iteration"]
        first = {type(hook).__qualname__: hook for hook in reversed(self._hooks)}
        for name, state in state_dict.get("hooks", {}).items():
            if name in first:
                first[name].load_state_dict(state)  # type: ignore[attr-defined]  # a hook with a state can load it
            else:
                logger.warning(f"the checkpoint has a state for the hook {name}, which this run does not have; it is left out")


class SimpleTrainer(TrainerBase):
    """Step = batch, forward, backward, optimizer.

    The model takes a batch and returns a loss, or several by name. gather_metric_period: losses are collected from all
    processes each so many iterations. zero_grad_before_forward: clear gradients before the forward pass, not after it.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
    ) -> None:
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward

    @cached_property
    def _data_loader_iter(self) -> Iterator[Any]:
        return iter(self.data_loader)  # at the first step: workers start when they are needed

    def run_step(self) -> None:
        if not self.model.training:
            raise AssertionError("the model is in eval mode; whatever set it so during training must set it back")
        data, data_time_s = self._next_batch()
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses = named_losses(self.model(data))
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self.after_backward()
        self._write_metrics(losses, data_time_s)  # before the optimizer works on gradients that are not finite
        self.optimizer.step()

    def _next_batch(self) -> tuple[Any, float]:
        """The batch, and how many seconds it was waited for."""
        began = time.perf_counter()
        batch = next(self._data_loader_iter)
        return batch, time.perf_counter() - began

    def _write_metrics(self, loss_dict: Losses, data_time: float, prefix: str = "", iter: int | None = None) -> None:
        at = self.iter if iter is None else iter
        if (at + 1) % self.gather_metric_period == 0:
            self.write_metrics(loss_dict, data_time, at, prefix)

    @staticmethod
    def write_metrics(loss_dict: Losses, data_time: float, cur_iter: int, prefix: str = "") -> None:
        """Store means of the losses over all processes, their sum as "total_loss", and the longest wait for data.

        FloatingPointError where a loss is not finite. The first process stores and checks, the others send.
        """
        values = torch.stack([loss.detach().float().reshape(()) for loss in loss_dict.values()]).tolist()  # one wait for the GPU
        mine = dict(zip(loss_dict, values, strict=True))
        everyone = comm.gather((mine, data_time))
        if not comm.is_main_process():
            return
        means = {name: sum(losses[name] for losses, _ in everyone) / len(everyone) for name in mine}
        total = sum(means.values())
        if not math.isfinite(total):
            raise FloatingPointError(f"the loss is not finite at iteration={cur_iter}: {means}")
        storage = get_event_storage()
        storage.put_scalar("data_time", max(wait for _, wait in everyone), cur_iter=cur_iter)
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(means) > 1:
            storage.put_scalars(cur_iter=cur_iter, **means)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])


def named_losses(output: torch.Tensor | Losses) -> dict[str, torch.Tensor]:
    """The losses of a model by name; a single one is called "total_loss"."""
    return {"total_loss": output} if isinstance(output, torch.Tensor) else dict(output)
