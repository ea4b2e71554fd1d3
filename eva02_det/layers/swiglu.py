"""The feed-forward layers: the gated one of EVA-02 and the plain one it replaced, with or without sub-LN."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """W3 LN(SiLU(W1 x) * W2 x), biases everywhere; the inner norm only with `sub_ln`. [..., D] -> [..., D].

    W1 and W2 stay two products: packing them costs a copy of both weights and gained nothing at any size measured.
    `packed` stores them as one matrix `w12`, W1 above W2, as the released models without sub-LN do: then one product.
    """

    def __init__(self, dim: int, hidden: int, *, sub_ln: bool = True, packed: bool = False) -> None:
        super().__init__()
        if packed:
            self.w12 = nn.Linear(dim, 2 * hidden)
        else:
            self.w1 = nn.Linear(dim, hidden)
            self.w2 = nn.Linear(dim, hidden)
        self.packed = packed
        self.ffn_ln = nn.LayerNorm(hidden, eps=1e-6) if sub_ln else nn.Identity()
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.packed:
            gate, gated = self.w12(tokens).chunk(2, -1)
            gated = F.silu(gate) * gated
        elif torch.is_grad_enabled():
            gated = F.silu(self.w1(tokens)) * self.w2(tokens)
        else:  # nothing is kept for a backward pass, so the widest tensors of the network are reused
            gated = F.silu(self.w1(tokens), inplace=True).mul_(self.w2(tokens))
        gated = self.ffn_ln(gated)  # under its old name, so that the input is freed before the last product
        return self.w3(gated)


class Mlp(nn.Module):
    """W2 LN(GELU(W1 x)), biases everywhere; the inner norm only with `sub_ln`. [..., D] -> [..., D].

    The layer of the plain ViT, kept for the comparison of Table 2.
    """

    def __init__(self, dim: int, hidden: int, *, sub_ln: bool = False) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.ffn_ln = nn.LayerNorm(hidden, eps=1e-6) if sub_ln else nn.Identity()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.ffn_ln(F.gelu(self.fc1(tokens))))
