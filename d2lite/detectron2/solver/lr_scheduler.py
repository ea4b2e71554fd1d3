"""Learning rates that follow a fvcore ParamScheduler, with a warm-up."""

from typing import Any

from fvcore.common.param_scheduler import CompositeParamScheduler, ConstantParamScheduler, LinearParamScheduler, ParamScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["LRMultiplier", "WarmupParamScheduler"]


class WarmupParamScheduler(CompositeParamScheduler):
    """`scheduler` with a warm-up in place of its first part.

    warmup_factor: times scheduler(0), where the warm-up starts. warmup_length: its share of the training, in 0..1.
    warmup_method: "linear", or "constant" for a step at the end of the warm-up. rescale_interval: False (default) cuts
    the start of `scheduler` off and ends the warm-up where it goes on; True squeezes all of it into the remaining time.
    """

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        start = warmup_factor * scheduler(0.0)
        end = scheduler(0.0 if rescale_interval else warmup_length)
        if warmup_method == "linear":
            warmup: ParamScheduler = LinearParamScheduler(start, end)
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(start)
        else:
            raise ValueError(f"warmup_method={warmup_method!r} is neither 'linear' nor 'constant'")
        scaling = ["rescaled", "rescaled" if rescale_interval else "fixed"]
        super().__init__([warmup, scheduler], lengths=[warmup_length, 1 - warmup_length], interval_scaling=scaling)


class LRMultiplier(LRScheduler):
    """Each group's learning rate = its initial one x multiplier(iteration / max_iter)."""

    def __init__(self, optimizer: Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1) -> None:
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"multiplier must be a fvcore ParamScheduler, not {multiplier!r}")
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)  # sets the first learning rates, so comes last

    def state_dict(self) -> dict[str, Any]:
        """Only what is not known from the config: a resumed run may change its schedule."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[Any]:
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [initial * factor for initial in self.base_lrs]
