"""One optimiser step: accumulated micro-batches, optional loss scaling and clipping."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class Trainer(SimpleTrainer):
    """`SimpleTrainer` that draws `accumulate` loader batches a step and averages their gradients.

    `scale_loss` is for fp16 training. `clip_norm` bounds the norm of the whole gradient; None leaves it alone,
    as the published recipes do.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        *,
        accumulate: int = 1,
        scale_loss: bool = False,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        device = next(model.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type, enabled=scale_loss)
        self._batches: Iterator[Any] | None = None

    def run_step(self) -> None:
        """One step; losses and the time spent waiting for data go to the event storage."""
        started = time.perf_counter()
        batches = self._next_batches()
        waited = time.perf_counter() - started
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._backward(batches)
        self.after_backward()
        self._write_metrics(losses, waited)  # before the step: a non-finite loss must not reach the weights
        self._update()

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state_dict = dict(state_dict)
        scaler = state_dict.pop("scaler", None)
        super().load_state_dict(state_dict)
        if scaler:
            self.scaler.load_state_dict(scaler)

    def _next_batches(self) -> list[Any]:
        if self._batches is None:
            self._batches = iter(self.data_loader)
        return [next(self._batches) for _ in range(self.accumulate)]

    def _backward(self, batches: list[Any]) -> dict[str, Tensor]:
        """Gradients of the mean loss over all micro-batches; returns the mean of each loss."""
        total: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            with self._without_reduction(last=index == len(batches) - 1):
                losses = self.model(batch)
                losses = {"total_loss": losses} if isinstance(losses, Tensor) else losses
                self.scaler.scale(sum(losses.values()) / self.accumulate).backward()
            for name, value in losses.items():
                total[name] = total.get(name, 0.0) + value.detach() / self.accumulate
        return total

    def _without_reduction(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Ranks exchange gradients once a step, after the last micro-batch."""
        if not last and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _update(self) -> None:
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
