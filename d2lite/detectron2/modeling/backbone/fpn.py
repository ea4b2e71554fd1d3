"""The extra level on top of a feature pyramid."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class LastLevelMaxPool(nn.Module):
    """Makes p6 from p5 by taking every second position."""

    def __init__(self) -> None:
        super().__init__()
        self.num_levels = 1
        self.in_feature = "p5"

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> one map [B, C, ceil(H / 2), ceil(W / 2)]."""
        return [F.max_pool2d(x, kernel_size=1, stride=2)]
