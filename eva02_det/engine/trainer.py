"""One optimiser step: micro-batches, loss scaling and clipping, and the agreement of all ranks on what failed."""

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eva02_det.engine.faults import Faults, dead_workers_named
from eva02_det.engine.place import load_place, place_of_all
from eva02_det.utils.broken import account_of_all
from eva02_det.utils.errors import LoneError, UserError
from eva02_det.utils.processes import largest
from eva02_det.utils.randomness import set_random_state

FINE, FAULT, OVER = 0, 1, 2  # what a rank has to tell the others before gradients are exchanged
logger = logging.getLogger("eva02_det")


@dataclass
class Attempt:
    """A step as far as this rank got: its batches, mean losses, and what went wrong."""

    batches: list[Any] = field(default_factory=list)
    waited_s: float = 0.0
    losses: dict[str, Tensor] = field(default_factory=dict)
    last: Tensor | None = None  # its gradient is the one that the ranks exchange
    fault: str = ""
    problem: str = ""

    @property
    def level(self) -> int:
        return OVER if self.problem else FAULT if self.fault else FINE


class Trainer(SimpleTrainer):
    """`SimpleTrainer` that draws `accumulate` loader batches a step and averages their gradients.

    A step whose loss or gradient is not finite in any rank is left out in all; `faults` says how often. What one rank cannot
    go on after (unreadable images, a dead loader worker) ends all of them. Where the loader keeps its place, a resumed run goes
    on with the batches and random numbers that would have come.

    scale_loss: for fp16 training. clip_norm: bounds the norm of the whole gradient; None leaves it alone, as the published
    recipes do.
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
        faults: Faults | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.faults = faults or Faults()
        self.losses: dict[str, float] | None = None  # of the last step, means over the ranks; None: it was left out
        device = next(model.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type, enabled=scale_loss)
        self._batches: Iterator[Any] | None = None
        self._generators: Mapping[str, Any] | None = None  # as a checkpoint held them

    def before_train(self) -> None:
        super().before_train()
        if self._generators is not None:
            set_random_state(self._generators)
            self._generators = None

    def after_train(self) -> None:
        self._batches = None  # the loader's workers end here, before what may follow, such as a long evaluation
        super().after_train()

    def after_step(self) -> None:
        if self.iter + 1 == self.max_iter:
            self._report()
        with dead_workers_named(self.data_loader, LoneError):
            super().after_step()

    def run_step(self) -> None:
        """One step; losses and the time spent waiting for data go to the event storage."""
        with dead_workers_named(self.data_loader, LoneError):  # where the others cannot hear of it
            self.optimizer.zero_grad(set_to_none=True)
            attempt = self._forward()
            worst = largest(attempt.level)
            if worst == OVER:
                raise UserError(next(text for text in comm.all_gather(attempt.problem) if text))
            if worst == FINE and attempt.last is not None:
                attempt.last.backward()
                self.after_backward()
            if self._account(attempt, faulty=worst == FAULT):
                self._update()
            else:
                self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Every rank must call this: the random numbers and the place in the data of all of them are in it."""
        state = super().state_dict()
        return state | {
            "scaler": self.scaler.state_dict(),
            "faults": self.faults.state_dict(),
            "ranks": place_of_all(self.data_loader),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state_dict = dict(state_dict)
        scaler, faults, ranks = (state_dict.pop(key, None) for key in ("scaler", "faults", "ranks"))
        super().load_state_dict(state_dict)
        if scaler:
            self.scaler.load_state_dict(scaler)
        if faults:
            self.faults.load_state_dict(faults)
        self._generators = load_place(self.data_loader, ranks)

    def _report(self) -> None:
        """What the whole training had to do without, in all ranks."""
        broken = getattr(self.data_loader, "broken", None)
        if broken is not None:
            logger.info("in this training %s", account_of_all(broken).summary())
        if self.faults.skipped:
            logger.warning("%d steps were not finite and were left out; see %s", self.faults.skipped, self.faults.file)

    def _forward(self) -> Attempt:
        """All up to the gradients that the ranks exchange: batches, losses, gradients of all micro-batches but the last."""
        attempt = Attempt()
        try:
            with dead_workers_named(self.data_loader, UserError):
                started = time.perf_counter()
                attempt.batches = self._next_batches()
                attempt.waited_s = time.perf_counter() - started
                for index, batch in enumerate(attempt.batches):
                    last = index == len(attempt.batches) - 1
                    with self._without_reduction(last=last):
                        attempt.last = self._loss_of(batch, attempt)
                        if not last:
                            attempt.last.backward()
        except FloatingPointError as error:  # detectron2's, of proposals
            attempt.fault = " ".join(str(error).split())
        except UserError as error:
            attempt.problem = str(error)
        return attempt

    def _loss_of(self, batch: Any, attempt: Attempt) -> Tensor:
        """The part of a micro-batch in the step's scaled loss; its losses are added to the attempt's."""
        losses = self.model(batch)
        losses = {"total_loss": losses} if isinstance(losses, Tensor) else losses
        for name, value in losses.items():
            attempt.losses[name] = attempt.losses.get(name, 0.0) + value.detach() / self.accumulate
        return self.scaler.scale(sum(losses.values()) / self.accumulate)

    def _next_batches(self) -> list[Any]:
        if self._batches is None:
            self._batches = iter(self.data_loader)
        return [next(self._batches) for _ in range(self.accumulate)]

    def _without_reduction(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Ranks exchange gradients once a step, after the last micro-batch."""
        if not last and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _account(self, attempt: Attempt, *, faulty: bool) -> bool:
        """Store the losses, or account for a fault; whether the step is finite in all ranks. Here the GPU is waited for."""
        names = list(attempt.losses)
        values = [attempt.losses[name].float().reshape(()) for name in names]
        if not faulty:
            values.append(self._gradient_norm(values[0].device))
        numbers = torch.stack(values).tolist() if values else []
        mine = dict(zip(names, numbers))
        everyone = comm.all_gather((mine, attempt.waited_s, not faulty and all(map(math.isfinite, numbers))))
        if not all(finite for _, _, finite in everyone):
            wrong = [f"{name} is {value}" for name, value in mine.items() if not math.isfinite(value)]
            self.losses = None
            self.faults.add(self.iter, attempt.fault or ", ".join(wrong), attempt.batches)
            return False
        self.faults.passed()
        means = {name: sum(losses[name] for losses, _, _ in everyone) / len(everyone) for name in mine}
        self.losses = {"total_loss": sum(means.values()), **means}
        if comm.is_main_process():
            self.storage.put_scalar("data_time", max(waited_s for _, waited_s, _ in everyone))
            self.storage.put_scalars(**self.losses)
        return True

    def _gradient_norm(self, device: torch.device) -> Tensor:
        """Of all ranks' gradient; 0 with a loss scale, which looks for overflow itself and lowers itself then."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if self.scaler.is_enabled() or not gradients:
            return torch.zeros((), device=device)
        return torch.stack(torch._foreach_norm(gradients)).float().norm()

    def _update(self) -> None:
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
