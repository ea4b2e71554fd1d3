"""Rotary positions on a two-dimensional grid: the first half of every head turns with the row, the second with the column.

Axes: N tokens (row-major over the grid), H heads, C channels of one head. Tables hold (cos, sin) in fp32; they are
computed from the grid and never saved.
"""

import torch
from torch import Tensor


def rotary_angles(
    grid: tuple[int, int], head_dim: int, *, span: float = 16, theta: float = 10000.0, device: torch.device | None = None
) -> Tensor:
    """Angle of every token and channel pair, [N, C / 2] in fp32.

    The positions of each axis are rescaled so that its side always covers `span` positions of pre-training (position
    interpolation), rows and columns apart where the grid is not square. The pairs of an axis turn with the
    frequencies theta^(-4j / C), j = 0 .. C / 4 - 1.
    """
    if head_dim % 4:
        raise ValueError(f"a head of {head_dim} channels cannot turn in two axes of channel pairs; use a multiple of 4")
    rows, cols = grid
    frequencies = theta ** (torch.arange(0, head_dim, 4, dtype=torch.float32, device=device) / -head_dim)
    places = [torch.arange(side, dtype=torch.float32, device=device) for side in grid]
    # the side itself is taken from the tensor: a compiler that traces sizes as symbols cannot divide by one here
    by_row, by_col = (torch.outer(place * span / (place[-1] + 1), frequencies) for place in places)
    return torch.cat((by_row.repeat_interleave(cols, 0), by_col.repeat(rows, 1)), -1)


def rotary_table(grid: tuple[int, int], head_dim: int, *, span: float = 16, device: torch.device | None = None) -> Tensor:
    """(cos, sin) of `rotary_angles`, [N, C / 2, 2]. A row of (1, 0) leaves its token as it is."""
    angles = rotary_angles(grid, head_dim, span=span, device=device)
    return torch.stack((angles.cos(), angles.sin()), -1)


def rotate(heads: Tensor, table: Tensor, *, overwrite: bool = False) -> Tensor:
    """Turn every adjacent pair of channels, [B, N, H, C] by [N, C / 2, 2], in fp32 or better; returns that precision.

    A table [B, N, C / 2, 2] turns each image in its own way. `overwrite` lets the result take the memory of `heads`,
    where no gradient needs the values.

    Two neighbours in memory are one complex number, so the turn is a single product and no channel is moved. A compiler
    generates code for the same sum written with real numbers, but not for complex ones.
    """
    precise = heads.to(torch.promote_types(heads.dtype, table.dtype)).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        return _turn_real(precise, table.unsqueeze(-3)).flatten(-2)
    pairs, turns = torch.view_as_complex(precise), torch.view_as_complex(table).unsqueeze(-2)
    return torch.view_as_real(pairs.mul_(turns) if overwrite else pairs * turns).flatten(-2)


def _turn_real(pairs: Tensor, table: Tensor) -> Tensor:
    """[B, N, H, C / 2, 2] by [N, 1, C / 2, 2] or [B, N, 1, C / 2, 2]."""
    x, y = pairs.unbind(-1)
    cos, sin = table.unbind(-1)
    return torch.stack((x * cos - y * sin, y * cos + x * sin), -1)
