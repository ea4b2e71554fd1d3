"""The gated feed-forward layer of EVA-02, with or without sub-LN."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """W3 LN(SiLU(W1 x) * W2 x), biases everywhere; the inner norm only with `sub_ln`. [..., D] -> [..., D].

    W1 and W2 stay two products: packing them costs a copy of both weights and gained nothing at any size measured.
    """

    def __init__(self, dim: int, hidden: int, *, sub_ln: bool = True) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden)
        self.w2 = nn.Linear(dim, hidden)
        self.ffn_ln = nn.LayerNorm(hidden, eps=1e-6) if sub_ln else nn.Identity()
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            gated = F.silu(self.w1(tokens)) * self.w2(tokens)
        else:  # nothing is kept for a backward pass, so the widest tensors of the network are reused
            gated = F.silu(self.w1(tokens), inplace=True).mul_(self.w2(tokens))
        gated = self.ffn_ln(gated)  # under its old name, so that the input is freed before the last product
        return self.w3(gated)
