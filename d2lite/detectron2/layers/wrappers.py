"""Convolution with its norm and activation, and a loss that bears no rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

ConvTranspose2d = nn.ConvTranspose2d


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` that may carry a norm module (a child called `norm`) and an activation, applied in that order."""

    def __init__(
        self, *args: Any, norm: nn.Module | None = None, activation: Callable[[Tensor], Tensor] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']."""
        for step in (super().forward, self.norm, self.activation):
            x = x if step is None else step(x)
        return x


def cross_entropy(input: Tensor, target: Tensor, *, reduction: str = "mean", **kwargs: Any) -> Tensor:
    """`F.cross_entropy` whose mean over no rows is a differentiable 0 instead of NaN."""
    if reduction == "mean" and len(target) == 0:
        return 0.0 * input.sum()
    return F.cross_entropy(input, target, reduction=reduction, **kwargs)
