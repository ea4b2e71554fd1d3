"""Multi-head attention with rotary positions, over all tokens or inside windows, and its interchangeable kernels.

Axes: B images, N tokens, D width, H heads, C = D / H channels of one head.
"""

import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eva02_det.layers.rope import rotate
from eva02_det.layers.windows import WindowOrder

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's fused attention."""
    return F.scaled_dot_product_attention(q, k, v)


def math_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The definition, with all N x N scores in memory: the reference for the others."""
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    return scores.softmax(-1).to(v.dtype) @ v


def xformers_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """xFormers' memory-efficient attention, which orders its axes [B, N, H, C]."""
    from xformers.ops import memory_efficient_attention

    return memory_efficient_attention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)


KERNELS: dict[str, Kernel] = {"sdpa": sdpa_attention, "xformers": xformers_attention, "math": math_attention}


def attention_kernel(name: str) -> Kernel:
    """The function (q, k, v) -> softmax(q k' / sqrt(C)) v called `name`, all [B, H, N, C]."""
    if name not in KERNELS:
        raise ValueError(f"attention={name!r} is unknown; choose one of {', '.join(KERNELS)}")
    if name == "xformers" and importlib.util.find_spec("xformers") is None:
        raise ModuleNotFoundError("attention='xformers' needs `pip install xformers`; attention='sdpa' needs nothing")
    return KERNELS[name]


class RotaryAttention(nn.Module):
    """Self-attention with biases on q, v and the output but not on k; no dropout. Parameters as in the released models."""

    def __init__(self, dim: int, num_heads: int, *, kernel: str = "sdpa") -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)
        self.kernel = attention_kernel(kernel)

    def forward(self, tokens: Tensor, table: Tensor, windows: WindowOrder | None = None) -> Tensor:
        """[B, N, D] -> [B, N, D].

        `table` [N, C / 2, 2] turns q and k. With `windows` the tokens lie in window order and each attends to its own
        window, in which an empty slot still takes part, as the projection of a zero vector.
        """
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)) for t in self._project(tokens))
        q, k = (rotate(t, table, overwrite=not torch.is_grad_enabled()).to(v.dtype) for t in (q, k))
        if windows is not None:
            # what an empty slot asks is thrown away, so only its key (0) and its value (the bias) matter
            q, k, v = windows.split(q), windows.split(k), windows.split(v, self.v_bias.view(self.num_heads, -1))
        heads = self.kernel(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
        return self.proj((heads if windows is None else windows.join(heads)).flatten(2))

    def _project(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """q, k, v, each [B, N, D], from one product with the packed weights where that is a gain.

        Not for few tokens: copying the weights costs as much as the product. Not in training: the backward pass would keep
        the packed weights and, for the sake of v, the unrotated q and k (at 4096 tokens 31 MB a block of B, and no faster).
        """
        if torch.is_grad_enabled() or tokens.shape[0] * tokens.shape[1] < 3 * tokens.shape[2]:
            q = F.linear(tokens, self.q_proj.weight, self.q_bias)
            return q, self.k_proj(tokens), F.linear(tokens, self.v_proj.weight, self.v_bias)
        weight = torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight))
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        return F.linear(tokens, weight, bias).chunk(3, -1)
