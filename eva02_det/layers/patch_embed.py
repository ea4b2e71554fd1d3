"""From an image to tokens: patch projection and the learned position table.

Axes: B images, N = rows * cols tokens, D width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """One linear projection per patch. An image that is not a multiple of the patch gets zeros right and below."""

    def __init__(self, patch_size: int, dim: int, in_channels: int = 3) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, height, width] -> [B, D, rows, cols]."""
        # written without a modulo, which the compiler cannot carry into the sizes that follow
        below, right = (-(-side // self.patch_size) * self.patch_size - side for side in images.shape[-2:])
        if below or right:
            images = F.pad(images, (0, right, 0, below))
        return self.proj(images)


@dataclass(frozen=True)
class Positions:
    """What the network knows about places, and on which grids it learnt it."""

    pretrain_grid: int | None = 14  # side of the learned table; None: no table
    cls_token: bool = True  # the table starts with a row for a class token, which detection does not use
    rotary_grid: int = 16  # positions that a side of any grid or window spans for the rotary angles

    @property
    def rows(self) -> int:
        """Length of the stored table."""
        return (self.pretrain_grid or 0) ** 2 + self.cls_token


def resize_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """The learned table [1, side^2 (+ 1), D], stretched bicubically to rows x cols: [1, N, D]. The class row is dropped."""
    side = int(table.shape[1] ** 0.5)
    patches = table[:, table.shape[1] - side**2 :]
    if grid == (side, side):
        return patches
    pixels = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    return F.interpolate(pixels, size=grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)


class ResizedPositions:
    """Remembers resized tables while the learned one keeps its values.

    Values are compared, not version counters: a write through `.data` or an averaging hook is noticed too.
    """

    def __init__(self, capacity: int = 8) -> None:
        self._capacity = capacity
        self._learned: Tensor | None = None
        self._resized: dict[tuple[int, int], Tensor] = {}

    def __call__(self, table: Tensor, grid: tuple[int, int]) -> Tensor:
        """`resize_positions(table, grid)`, without a gradient."""
        if not self._still_holds(table):
            self._learned = table.detach().clone()
            self._resized = {}
        if grid not in self._resized:
            if len(self._resized) == self._capacity:
                self._resized.pop(next(iter(self._resized)))
            self._resized[grid] = resize_positions(table.detach(), grid).contiguous()
        return self._resized[grid]

    def _still_holds(self, table: Tensor) -> bool:
        known = self._learned
        if known is None or (known.dtype, known.device) != (table.dtype, table.device):
            return False
        return torch.equal(known, table)
