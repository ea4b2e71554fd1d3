"""The last block of a teacher, which may compute those tokens alone whose features the loss compares.

Axes: B images, T tokens (class token first, if any), K asked for, W width, H heads, C channels of a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eva02_det.layers.attention import math_attention, sdpa_attention
from eva02_det.layers.pick import pick


class LastBlock(nn.Module):
    """Stands in for a block of timm's EVA. While `asked` [B, K] is set, the block puts out these tokens only.

    Keys and values come from all tokens; queries, output projection and feed-forward layer from those asked for, so that they
    come out as they otherwise would.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.asked: Tensor | None = None

    def forward(self, tokens: Tensor, rope: Tensor | None = None, **others: Any) -> Tensor:
        """[B, T, W] -> the same, or [B, K, W]."""
        if self.asked is None:
            return self.block(tokens, rope=rope, **others)
        block: Any = self.block
        attended = attended_for(block.attn, block.norm1(tokens), self.asked)
        tokens = pick(tokens, self.asked) + attended
        return tokens + block.mlp(block.norm2(tokens))


def attended_for(attn: Any, tokens: Tensor, asked: Tensor) -> Tensor:
    """Attention of the tokens `asked` [B, K] to all: [B, T, W] -> [B, K, W]."""

    def heads(projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)

    weight, width = attn.qkv.weight, attn.qkv.weight.shape[0] // 3
    q = F.linear(pick(tokens, asked), weight[:width], attn.q_bias)
    k, v = F.linear(tokens, weight[width:], torch.cat((attn.k_bias, attn.v_bias))).chunk(2, -1)
    attention = sdpa_attention if attn.fused_attn else math_attention
    found = attention(heads(q), heads(k), heads(v))
    return attn.proj(found.transpose(1, 2).flatten(2))


def with_last_block(trunk: nn.Module) -> LastBlock | None:
    """Puts a `LastBlock` into a timm trunk of the published teacher's kind; None, and nothing done, for other kinds."""
    blocks = getattr(trunk, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks) or not is_plain_eva(trunk, blocks[-1]):
        return None
    last = LastBlock(blocks[-1])
    blocks[-1] = last
    return last


def is_plain_eva(trunk: nn.Module, block: Any) -> bool:
    """Whether a block is what `LastBlock` computes: packed projections with biases, nothing between attention and its output."""
    attn: Any = getattr(block, "attn", None)
    if type(block).__name__ != "EvaBlock" or getattr(attn, "qkv", None) is None or attn.q_bias is None:
        return False
    absent = (getattr(trunk, "rope", None), block.gamma_1, block.gamma_2, getattr(attn, "gate", None))
    bare = (attn.q_norm, attn.k_norm, attn.norm)
    return all(part is None for part in absent) and all(isinstance(part, nn.Identity) for part in bare)
