"""The transform block of EVA-02 ("TrV"): pre-norm attention and a gated feed-forward layer, each on a residual branch."""

from torch import Tensor, nn

from eva02_det.layers.attention import RotaryAttention
from eva02_det.layers.drop_path import DropPath
from eva02_det.layers.swiglu import SwiGLU
from eva02_det.layers.windows import WindowOrder


class TrVBlock(nn.Module):
    """Attention, then SwiGLU. The caller says where tokens are (`table`) and who sees whom (`windows`)."""

    def __init__(self, attention: RotaryAttention, mlp: SwiGLU, *, dim: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, table: Tensor, windows: WindowOrder | None = None) -> Tensor:
        """[B, N, D] -> [B, N, D]; `table` [N, C / 2, 2] as `rotary_table` makes it, one row per token."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), table, windows))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))
