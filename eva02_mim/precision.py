"""The number format of a step: fp32, bf16 or fp16, the last with a loss scale that all ranks share."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from eva02_det.utils.errors import UserError

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# the published run's dynamic scale (specification 6.4)
START, WINDOW, PATIENCE, SMALLEST = 2.0**16, 500, 2, 1.0


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Weights stay in fp32, matrix products run in the named format; norms, softmax statistics and the loss in fp32."""
    if precision not in PRECISIONS:
        raise UserError(f"train.precision={precision} is not one of {', '.join(PRECISIONS)}")
    kind = PRECISIONS[precision]
    return nullcontext() if kind is None else torch.autocast(device.type, dtype=kind)


class LossScale:
    """Keeps small fp16 gradients above zero: the loss is multiplied by `value`, the gradients divided by it.

    Halved by every overflow after the first `PATIENCE - 1`, doubled after `WINDOW` steps without one. It lives on the device
    and is updated there: no step waits for the host. Outside fp16 it is 1 and stays 1.
    """

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        self.enabled = enabled
        self.value = torch.tensor(START if enabled else 1.0, device=device)
        self._good = torch.zeros((), device=device)
        self._patience = torch.tensor(float(PATIENCE), device=device)

    @property
    def at_floor(self) -> Tensor:
        """Whether no smaller scale can help: what is not finite then comes from the data or the weights."""
        return self.value <= SMALLEST

    def update(self, overflow: Tensor) -> None:
        """After a step; overflow: bool scalar, the same on all ranks."""
        if not self.enabled:
            return
        last_chance = self._patience <= 1
        smaller = torch.where(last_chance, (self.value / 2).clamp(min=SMALLEST), self.value)
        good = torch.where(overflow, torch.zeros_like(self._good), self._good + 1)
        grown = good >= WINDOW
        larger = torch.where(grown, self.value * 2, self.value)
        fresh = torch.full_like(self._patience, float(PATIENCE))
        self._patience = torch.where(
            overflow, (self._patience - 1).clamp(min=1), torch.where(grown, fresh, self._patience)
        )
        self.value = torch.where(overflow, smaller, larger)
        self._good = torch.where(grown, torch.zeros_like(good), good)

    def state_dict(self) -> dict[str, float]:
        return {"value": float(self.value), "good": float(self._good), "patience": float(self._patience)}

    def load_state_dict(self, state: dict[str, float]) -> None:
        if not self.enabled:
            return
        self.value.fill_(state["value"])
        self._good.fill_(state["good"])
        self._patience.fill_(state["patience"])
