"""The exponential moving average of a model's weights (specification 7.4), which the Objects365 recipes are evaluated with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eva02_det.checkpoint.remap import Fit, Target
from eva02_det.utils.errors import UserError

PREFIX = "ema/"  # stands before the results of averaged weights
DEFAULT_DECAY = 0.9999


class ModelEma:
    """Average e of every parameter w: starts as a copy, then e <- decay * e + (1 - decay) * w; no warm-up, no bias correction.

    Only parameters are averaged. The released code averages buffers as well, whose constants drift by rounding (anchors by
    0.008 px, rotary tables by 1e-4 in 2,000 steps); buffers here are those of the model.
    Every rank keeps the average, because every rank evaluates with it and all have the same weights.
    """

    def __init__(self, model: nn.Module, decay: float = DEFAULT_DECAY) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"train.ema.decay={decay} must be at least 0 and below 1, or null for no average")
        self.decay = decay
        parameters = dict(_plain(model).named_parameters())
        low = [name for name, parameter in parameters.items() if parameter.dtype not in (torch.float32, torch.float64)]
        if low:
            raise UserError(f"weights in {parameters[low[0]].dtype} cannot be averaged ({low[0]}): a step would round away")
        self._names = tuple(parameters)
        self._averages = [parameter.detach().clone() for parameter in parameters.values()]
        self._target = Target.of(_plain(model))
        self._applied = False

    @torch.no_grad()
    def restart(self, model: nn.Module) -> None:
        """Begin again from the model's weights, as before the first step."""
        torch._foreach_copy_(self._averages, self._parameters(model))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after one step."""
        torch._foreach_lerp_(self._averages, self._parameters(model), 1 - self.decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model has the averaged weights; average and model exchange their storage, nothing is copied."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    def state_dict(self) -> dict[str, Tensor]:
        """Name of a parameter -> its average: what the authors' checkpoints hold as `ema_state`, without the buffers."""
        self._require_own()
        return dict(zip(self._names, self._averages))

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved average; UserError where a name or a shape does not fit.

        Buffers in the authors' files are compared with those of the model and dropped.
        """
        self._require_own()
        mine = dict(zip(self._names, self._averages))
        fit = Fit(state, replace(self._target, state=mine, buffers=frozenset()), "ema_state", averaged=True)
        if problems := fit.account.problems():
            raise UserError(f"the average (ema_state) of the checkpoint is not one of this model: {problems}; start the run anew")
        for name, tensor in fit.weights.items():
            mine[name].copy_(tensor)

    def _parameters(self, model: nn.Module) -> list[Tensor]:
        self._require_own()
        return [parameter.detach() for parameter in _plain(model).parameters()]

    def _exchange(self, model: nn.Module) -> None:
        for index, parameter in enumerate(_plain(model).parameters()):
            self._averages[index], parameter.data = parameter.data, self._averages[index]
        self._applied = not self._applied

    def _require_own(self) -> None:
        if self._applied:
            raise RuntimeError("while the average is applied to the model, its place holds the raw weights")


class EmaHook(HookBase):
    """Updates an average after every iteration, as released: also where the loss scaler skipped a step.

    A skipped step leaves the weights, which then count once more; fp16 training skips a handful of steps in thousands.
    """

    def __init__(self, average: ModelEma) -> None:
        self._average = average

    def after_step(self) -> None:
        self._average.update(self.trainer.model)


def _plain(model: nn.Module) -> nn.Module:
    """The model inside DDP."""
    return model.module if isinstance(model, DistributedDataParallel) else model
