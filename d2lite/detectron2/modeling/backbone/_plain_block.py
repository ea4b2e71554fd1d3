"""One block of a plain vision transformer, global or windowed, and the patches it works on (ViTDet, arXiv:2203.16527).

Axes: B images, R rows, K columns, D width, S patches along the side of a window, W windows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from detectron2.layers import get_norm
from torch import Tensor, nn
from torchvision.ops import StochasticDepth


class PatchEmbed(nn.Module):
    """A linear projection of every patch; what is left of an image at the right and the bottom is cut off."""

    def __init__(self, patch_size: int, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """[B, channels, height, width] -> [B, R, K, D]."""
        return self.proj(images).permute(0, 2, 3, 1)


class FeedForward(nn.Module):
    """Two linear layers, the hidden one `hidden` wide."""

    def __init__(self, dim: int, hidden: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = activation()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.fc2(self.act(self.fc1(tokens)))


class ConvBottleneck(nn.Module):
    """Convolutions of half the width that carry information across windows; starts as the identity."""

    def __init__(self, dim: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        narrow = dim // 2
        for step, (source, target, side) in enumerate(((dim, narrow, 1), (narrow, narrow, 3), (narrow, dim, 1)), start=1):
            conv = nn.Conv2d(source, target, side, padding=side // 2, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.add_module(f"conv{step}", conv)
            self.add_module(f"norm{step}", get_norm("LN", target))
        self.act1, self.act2 = activation(), activation()
        nn.init.zeros_(self.norm3.weight)

    def forward(self, features: Tensor) -> Tensor:
        """[B, D, R, K] -> [B, D, R, K]."""
        inner = self.act1(self.norm1(self.conv1(features)))
        inner = self.act2(self.norm2(self.conv2(inner)))
        return features + self.norm3(self.conv3(inner))


class PlainBlock(nn.Module):
    """Attention and a feed-forward layer on normalised tokens, each added to them.

    window: side of the windows that attention is confined to, in patches; 0: the whole map. residual: a network on
    [B, D, R, K] behind both. drop_path: probability of leaving a branch out for an image in training.
    """

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        mlp: nn.Module,
        *,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        drop_path: float = 0.0,
        window: int = 0,
        residual: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.window_size = window
        self.norm1 = norm_layer(dim)
        self.attn = attn
        self.drop_path = StochasticDepth(drop_path, mode="row")
        self.norm2 = norm_layer(dim)
        self.mlp = mlp
        self.residual = residual

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, R, K, D] -> [B, R, K, D]."""
        tokens = tokens + self.drop_path(self._attend(self.norm1(tokens)))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens if self.residual is None else self.residual(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def _attend(self, tokens: Tensor) -> Tensor:
        if not self.window_size:
            return self.attn(tokens)
        size = (tokens.shape[1], tokens.shape[2])
        return join_windows(self.attn(split_windows(tokens, self.window_size)), size)


def split_windows(tokens: Tensor, side: int) -> Tensor:
    """[B, R, K, D] -> [B * W, S, S, D]; where the side does not divide the map, zeros fill windows right and below."""
    below, right = (-length % side for length in tokens.shape[1:3])
    if below or right:
        tokens = F.pad(tokens, (0, 0, 0, right, 0, below))
    return tokens.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3).flatten(0, 2)


def join_windows(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """[B * W, S, S, D] -> [B, R, K, D] for size = (R, K), without what was filled up."""
    side = windows.shape[1]
    down, across = (-(-length // side) for length in size)
    tokens = windows.unflatten(0, (-1, down, across)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return tokens[:, : size[0], : size[1]]
