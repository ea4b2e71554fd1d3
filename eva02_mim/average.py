"""Averaged weights: timm's exponential moving average, in fp32 from the first step on (specification 6.5)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from eva02_det.utils.errors import UserError


class Average:
    """e <- decay * e + (1 - decay) * w after every step, over parameters and buffers; it begins as a copy of the model.

    `model` holds the averages and is in eval mode.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"train.ema.decay={decay} must be at least 0 and below 1, or null for no average")
        try:
            from timm.utils import ModelEmaV3
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "averaged weights need `pip install timm`, or set train.ema.decay=null"
            ) from error
        self._ema = ModelEmaV3(model, decay=decay, dtype=torch.float32)
        self.model: nn.Module = self._ema.module

    def update(self, model: nn.Module) -> None:
        """Take in the weights after one step."""
        self._ema.update(model)

    def state_dict(self) -> dict[str, Tensor]:
        """Name of a weight -> its average."""
        return self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up saved averages; their values are copied."""
        self.model.load_state_dict(state)
