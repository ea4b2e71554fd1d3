"""The detection backbone written down as its description reads, without a thought for speed: what TrV is measured against.

Three projections, rotation by interleaving copies, windows cut out and padded in every block, position table resized in
every forward pass. Axes: B images, Y x X tokens of the map, D width, H heads, C channels of one head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eva02_det.modeling.vit import TrV


def plain_forward(model: TrV, images: Tensor) -> Tensor:
    """[B, 3, height, width] -> [B, D, Y, X] with the weights of `model`; sides that patches divide."""
    z = model.patch_embed.proj(images).permute(0, 2, 3, 1)
    rows, cols = z.shape[1:3]
    side = model.positions.pretrain_grid
    learned = model.pos_embed[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    z = z + F.interpolate(learned, size=(rows, cols), mode="bicubic").permute(0, 2, 3, 1)
    in_window, in_map = tables(model, model.window_size, z), tables(model, rows, z)
    for block, windowed in zip(model.blocks, windowed_flags(model)):
        x = block.norm1(z)
        if windowed:
            x, padded = cut_windows(x, model.window_size)
            x = attend(block.attn, x, *in_window)
            x = glue_windows(x, model.window_size, padded, (rows, cols))
        else:
            x = attend(block.attn, x, *in_map)
        z = z + x
        x = block.norm2(z)
        z = z + block.mlp.w3(block.mlp.ffn_ln(F.silu(block.mlp.w1(x)) * block.mlp.w2(x)))
    return z.permute(0, 3, 1, 2)


def windowed_flags(model: TrV) -> list[bool]:
    """Which blocks attend inside windows."""
    return [windowed for windowed, blocks in model._runs for _ in blocks]


def tables(model: TrV, side: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine, [side^2, C] each, every angle twice."""
    per_axis = model.head_dim // 2
    frequencies = 10000.0 ** (-torch.arange(0, per_axis, 2, device=like.device) / per_axis)
    angles = torch.outer(torch.arange(side, device=like.device) * model.positions.rotary_grid / side, frequencies)
    angles = angles.repeat_interleave(2, -1)
    both = torch.cat((angles[:, None].expand(-1, side, -1), angles[None].expand(side, -1, -1)), -1).flatten(0, 1)
    return both.cos(), both.sin()


def cut_windows(x: Tensor, side: int) -> tuple[Tensor, tuple[int, int]]:
    """[B, Y, X, D] -> [B * W, side, side, D] and the padded size of the map."""
    batch, rows, cols, width = x.shape
    x = F.pad(x, (0, 0, 0, -cols % side, 0, -rows % side))
    padded = (x.shape[1], x.shape[2])
    x = x.view(batch, padded[0] // side, side, padded[1] // side, side, width)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, side, side, width), padded


def glue_windows(x: Tensor, side: int, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """[B * W, side, side, D] -> [B, Y, X, D]."""
    x = x.view(-1, padded[0] // side, padded[1] // side, side, side, x.shape[-1])
    x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, *padded, x.shape[-1])
    return x[:, : size[0], : size[1]].contiguous()


def attend(attn: nn.Module, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[B, Y, X, D] -> [B, Y, X, D], every token with every other."""
    batch, rows, cols, _ = x.shape

    def split(t: Tensor) -> Tensor:
        return t.reshape(batch, rows * cols, attn.num_heads, -1).transpose(1, 2)

    q = split(F.linear(x, attn.q_proj.weight, attn.q_bias))
    k = split(F.linear(x, attn.k_proj.weight))
    v = split(F.linear(x, attn.v_proj.weight, attn.v_bias))
    q, k = (t * cos + interleave(t) * sin for t in (q, k))
    heads = F.scaled_dot_product_attention(q.type_as(v), k.type_as(v), v)
    return attn.proj(heads.transpose(1, 2).reshape(x.shape))


def interleave(t: Tensor) -> Tensor:
    """(a, b) -> (-b, a) for every adjacent pair."""
    return torch.stack((-t[..., 1::2], t[..., ::2]), -1).reshape(t.shape)
