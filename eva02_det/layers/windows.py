"""Square windows over a token grid: tokens are put in window order once and stay there for a run of windowed blocks.

Axes: B images, N = rows * cols tokens, D width, H heads, C channels of one head, W windows, S = side^2 slots of a window.
Where the side does not divide the grid, the windows at the right and bottom hold empty slots. Empty slots exist only
inside attention; norms, projections and feed-forward layers see the N real tokens.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slots:
    """Where tokens lie when some slots are empty. Every index has its inverse, so that gradients are copies, not sums."""

    source: Tensor  # [N] row-major place of each token in window order
    rank: Tensor  # [N] place in window order of each row-major token
    slot: Tensor  # [N] slot of each token in window order, 0 .. W * S - 1
    owner: Tensor  # [W * S] token (in window order) of each slot, N where empty
    empty: Tensor  # [W * S - N] slots without a token


@dataclass(frozen=True)
class WindowOrder:
    """How the tokens of one grid lie in windows; `slots` is None where no slot is empty, as reshaping then does it all."""

    grid: tuple[int, int]
    side: int
    slots: Slots | None = None

    @property
    def windows(self) -> tuple[int, int]:
        """Windows below and beside one another."""
        return -(-self.grid[0] // self.side), -(-self.grid[1] // self.side)

    def to_windows(self, tokens: Tensor) -> Tensor:
        """[B, N, D] from row-major to window order."""
        if self.slots is not None:
            return _Collect.apply(tokens, self.slots.source, self.slots.rank)
        down, across = self.windows
        return tokens.unflatten(1, (down, self.side, across, self.side)).transpose(2, 3).flatten(1, 4)

    def to_grid(self, tokens: Tensor) -> Tensor:
        """[B, N, D] from window order back to row-major."""
        if self.slots is not None:
            return _Collect.apply(tokens, self.slots.rank, self.slots.source)
        down, across = self.windows
        return tokens.unflatten(1, (down, across, self.side, self.side)).transpose(2, 3).flatten(1, 4)

    def split(self, heads: Tensor, fill: Tensor | None = None) -> Tensor:
        """[B, N, H, C] -> [B * W, S, H, C]; an empty slot holds `fill` [H, C], or zeros."""
        if self.slots is not None:
            row = heads.new_zeros(heads.shape[2:]) if fill is None else fill.to(heads.dtype)
            row = row.expand(len(heads), 1, *row.shape)
            heads = _Spread.apply(heads, row, self.slots.slot, self.slots.owner, self.slots.empty)
        return heads.unflatten(1, (-1, self.side**2)).flatten(0, 1)

    def join(self, heads: Tensor) -> Tensor:
        """[B * W, S, H, C] -> [B, N, H, C], empty slots left out."""
        down, across = self.windows
        heads = heads.unflatten(0, (-1, down * across)).flatten(1, 2)
        return heads if self.slots is None else _Collect.apply(heads, self.slots.slot, self.slots.owner)

    def tile(self, table: Tensor) -> Tensor:
        """A table of one window, [S, ...] -> a row for each token in window order, [N, ...]."""
        if self.slots is not None:
            return table[self.slots.slot % self.side**2]
        return table.repeat(self.windows[0] * self.windows[1], *[1] * (table.ndim - 1))


def window_order(grid: tuple[int, int], side: int, device: torch.device | None = None) -> WindowOrder:
    """The order for a grid of (rows, cols)."""
    rows, cols = grid
    if rows % side == 0 and cols % side == 0:
        return WindowOrder(grid, side)
    down, across = -(-rows // side), -(-cols // side)
    row = torch.arange(rows, device=device)[:, None]
    col = torch.arange(cols, device=device)[None, :]
    window = torch.div(row, side, rounding_mode="floor") * across + torch.div(col, side, rounding_mode="floor")
    slot, source = (window * side**2 + row % side * side + col % side).flatten().sort()
    tokens = torch.arange(rows * cols, device=device)
    owner = torch.full((down * across * side**2,), rows * cols, device=device).scatter(0, slot, tokens)
    return WindowOrder(grid, side, Slots(source, source.argsort(), slot, owner, owner.argsort()[rows * cols :]))


class _Collect(torch.autograd.Function):
    """Rows `index` along axis 1; `inverse` says which of them each row became, or their number for none."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(1, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        nothing = grad.new_zeros(()).expand(grad.shape[0], 1, *grad.shape[2:])
        return torch.cat((grad, nothing), 1).index_select(1, inverse), None, None


class _Spread(torch.autograd.Function):
    """The other way: row n goes to `slot[n]`, and `fill` [B, 1, ...] to every slot that is empty."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, fill: Tensor, slot: Tensor, owner: Tensor, empty: Tensor) -> Tensor:
        ctx.save_for_backward(slot, empty)
        return torch.cat((rows, fill), 1).index_select(1, owner)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        slot, empty = ctx.saved_tensors
        return grad.index_select(1, slot), grad.index_select(1, empty).sum(1, keepdim=True), None, None, None
