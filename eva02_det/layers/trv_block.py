"""The transform block of EVA-02 ("TrV"): pre-norm attention and a feed-forward layer, each on a residual branch."""

from torch import Tensor, nn

from eva02_det.layers.attention import RotaryAttention
from eva02_det.layers.drop_path import DropPath
from eva02_det.layers.pick import pick
from eva02_det.layers.windows import WindowOrder


class TrVBlock(nn.Module):
    """Attention, then the feed-forward layer. The caller says where tokens are (`table`) and who sees whom (`windows`)."""

    def __init__(self, attention: RotaryAttention, mlp: nn.Module, *, dim: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(
        self, tokens: Tensor, table: Tensor | None, windows: WindowOrder | None = None, asking: Tensor | None = None
    ) -> Tensor:
        """[B, N, D] -> [B, N, D]; `table` [N, C / 2, 2] as `rotary_table` makes it, one row per token, or None.

        With `asking` [B, K] only those tokens come out, [B, K, D], and only what they need is computed.
        """
        attended = self.attn(self.norm1(tokens), table, windows, asking)
        if asking is not None:
            tokens = pick(tokens, asking)
        tokens = tokens + self.drop_path(attended)
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))
