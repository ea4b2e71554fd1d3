"""Multi-head attention with rotary positions, over all tokens or inside windows, and its interchangeable kernels.

Axes: B images, N tokens, K tokens that ask, D width, H heads, C = D / H channels of one head.
"""

import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eva02_det.layers.pick import pick
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
    """Self-attention with biases on q, v and the output but not on k; no dropout. Parameters as in the released models.

    `packed` stores one matrix `qkv` [3D, D], q above k above v, as the models without sub-LN do, instead of three.
    """

    def __init__(self, dim: int, num_heads: int, *, kernel: str = "sdpa", packed: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        if packed:
            self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        else:
            self.q_proj = nn.Linear(dim, dim, bias=False)
            self.k_proj = nn.Linear(dim, dim, bias=False)
            self.v_proj = nn.Linear(dim, dim, bias=False)
        self.packed = packed
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)
        self.kernel = attention_kernel(kernel)

    def forward(
        self, tokens: Tensor, table: Tensor | None, windows: WindowOrder | None = None, asking: Tensor | None = None
    ) -> Tensor:
        """[B, N, D] -> [B, N, D].

        `table` [N, C / 2, 2] turns q and k; None leaves them. With `windows` the tokens lie in window order and each
        attends to its own window, in which an empty slot still takes part, as the projection of a zero vector. With
        `asking` [B, K] only those tokens attend, to all, and the result is [B, K, D]; not together with `windows`.
        """
        # no name for what comes out of the products: it would keep the unrotated q and k alive through the attention
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)) for t in self._project(tokens, asking))
        if table is not None:
            overwrite = not torch.is_grad_enabled()
            q = rotate(q, table if asking is None else table[asking], overwrite=overwrite).to(v.dtype)
            k = rotate(k, table, overwrite=overwrite).to(v.dtype)
        if windows is not None:
            # what an empty slot asks is thrown away, so only its key (0) and its value (the bias) matter
            q, k, v = windows.split(q), windows.split(k), windows.split(v, self.v_bias.view(self.num_heads, -1))
        heads = self.kernel(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
        return self.proj((heads if windows is None else windows.join(heads)).flatten(2))

    def _project(self, tokens: Tensor, asking: Tensor | None) -> tuple[Tensor, ...]:
        """q, k, v, each [B, N, D], from one product with the packed weights where that is a gain. q is [B, K, D] where K ask.

        Not for few tokens: copying the weights costs as much as the product. Not in training: the backward pass would keep
        the packed weights and, for the sake of v, the unrotated q and k (at 4096 tokens 31 MB a block of B, and no faster).
        Where one matrix is stored there is nothing to copy, and it is always one product.
        """
        if asking is not None:
            return self._project_few(tokens, asking)
        if self.packed:
            return F.linear(tokens, self.qkv.weight, self._packed_bias()).chunk(3, -1)
        if torch.is_grad_enabled() or tokens.shape[0] * tokens.shape[1] < 3 * tokens.shape[2]:
            q = F.linear(tokens, self.q_proj.weight, self.q_bias)
            return q, self.k_proj(tokens), F.linear(tokens, self.v_proj.weight, self.v_bias)
        weight = torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight))
        return F.linear(tokens, weight, self._packed_bias()).chunk(3, -1)

    def _project_few(self, tokens: Tensor, asking: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q of the asking tokens, [B, K, D]; k and v of all, [B, N, D]."""
        if self.packed:
            for_q, for_k, for_v = self.qkv.weight.chunk(3)
        else:
            for_q, for_k, for_v = self.q_proj.weight, self.k_proj.weight, self.v_proj.weight
        q = F.linear(pick(tokens, asking), for_q, self.q_bias)
        return q, F.linear(tokens, for_k), F.linear(tokens, for_v, self.v_bias)

    def _packed_bias(self) -> Tensor:
        """[3D], zero for k."""
        return torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
