"""Self-attention over a map of tokens, with learned relative positions along rows and columns (MViTv2, arXiv:2112.01526).

Axes: B images or windows, R rows, K columns, N = R * K tokens, D width, H heads, C channels of one head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RelativeAttention(nn.Module):
    """Multi-head attention whose score of tokens i and j is q_i . k_j / sqrt(C), plus q_i . (P[rows apart] + Q[columns apart]).

    relative_to: (rows, columns) of the map that the tables P = `rel_pos_h` and Q = `rel_pos_w` are made for, one entry
    for every difference; None leaves the term out. A map of another size stretches the tables.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        relative_to: tuple[int, int] | None = None,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.relative = relative_to is not None
        if relative_to is not None:
            self.rel_pos_h, self.rel_pos_w = (nn.Parameter(torch.zeros(2 * n - 1, dim // num_heads)) for n in relative_to)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        if self.relative and not zero_init:
            for table in (self.rel_pos_h, self.rel_pos_w):
                nn.init.trunc_normal_(table, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, R, K, D] -> [B, R, K, D]."""
        size = (tokens.shape[1], tokens.shape[2])
        parts = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = parts.flatten(1, 2).permute(2, 0, 3, 1, 4)
        mixed = self._relative(query, key, value, size) if self.relative else F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2).unflatten(1, size))

    def _relative(self, query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
        """Three times [B, H, N, C] -> [B, H, N, C].

        The position term is a dot product as well: of q_i . P[row of i - each row] with a one-hot code of the row of j.
        Appended to queries and keys it goes through a fused kernel, and no N x N scores are ever stored. Those kernels
        want queries, keys and values equally wide, and by a multiple of 8.
        """
        rows, cols = size
        places = query.unflatten(2, size)
        below = torch.einsum("bhyxc,ytc->bhyxt", places, differences(self.rel_pos_h, rows)).flatten(2, 3)
        beside = torch.einsum("bhyxc,xtc->bhyxt", places, differences(self.rel_pos_w, cols)).flatten(2, 3)
        row_code = torch.eye(rows, dtype=key.dtype, device=key.device).repeat_interleave(cols, dim=0)
        col_code = torch.eye(cols, dtype=key.dtype, device=key.device).repeat(rows, 1)
        codes = torch.cat((row_code, col_code), dim=1).expand(*key.shape[:2], -1, -1)
        channels = query.shape[-1]
        spare = -(channels + rows + cols) % 8
        query = torch.cat((query * channels**-0.5, below.to(query.dtype), beside.to(query.dtype)), dim=-1)
        query, key = (F.pad(one, (0, spare)) for one in (query, torch.cat((key, codes), dim=-1)))
        value = F.pad(value, (0, rows + cols + spare))
        return F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :channels]


def differences(table: Tensor, size: int) -> Tensor:
    """[L, C], L entries for differences from most negative to most positive -> [size, size, C]: at (a, b) that of a - b.

    A table for another size is stretched linearly to 2 * size - 1 entries.
    """
    count = 2 * size - 1
    if table.shape[0] != count:
        table = F.interpolate(table.T[None], size=count, mode="linear")[0].T
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place + (size - 1)]
