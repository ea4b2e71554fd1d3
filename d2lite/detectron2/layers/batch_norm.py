"""Normalisation of [B, C, H, W] feature maps, and the table of norms that configs name."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """Layer norm over the channels of each position, [B, C, H, W] -> [B, C, H, W], biased variance."""

    def __init__(self, normalized_shape: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.normalized_shape = (normalized_shape,)
        self.eps = eps
        for name, start in (("weight", 1.0), ("bias", 0.0)):
            self.register_parameter(name, nn.Parameter(torch.full(self.normalized_shape, start)))

    def forward(self, x: Tensor) -> Tensor:
        """The result is laid out channels-last, which spares the convolution after it a transposition."""
        positions_first = x.movedim(1, -1)
        return F.layer_norm(positions_first, self.normalized_shape, self.weight, self.bias, self.eps).movedim(-1, 1)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "LN": LayerNorm,
    "GN": _group_norm,
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """A norm module for that many channels, by name or from a factory; "" and None mean no norm."""
    if norm is None or norm == "":
        return None
    if not isinstance(norm, str):
        return norm(out_channels)
    if norm not in NORMS:
        raise KeyError(f"norm {norm!r} is not offered; choose one of {sorted(NORMS)}")
    return NORMS[norm](out_channels)
