"""Averaged weights: an exponential moving average in fp32 from the first step on (specification 6.5)."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from eva02_det.utils.errors import UserError


class Average:
    """e <- decay * e + (1 - decay) * w after every step, over parameters and buffers; it begins as a copy of the model.

    `model` holds the averages and is in eval mode. Whole numbers among the buffers are copied.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"train.ema.decay={decay} must be at least 0 and below 1, or null for no average")
        self.decay = decay
        self.model = copy.deepcopy(model).float().eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after one step."""
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values()))
        floats = [(mine, theirs) for mine, theirs in pairs if mine.is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in floats], [theirs.float() for _, theirs in floats], 1 - self.decay)
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)

    def state_dict(self) -> dict[str, Tensor]:
        """Name of a weight -> its average."""
        return self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up saved averages; their values are copied."""
        self.model.load_state_dict(state)
