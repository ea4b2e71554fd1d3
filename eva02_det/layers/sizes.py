"""The four sizes of EVA-02."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrVSize:
    """Width, depth and heads of one size; the small two have no norm inside the feed-forward layer."""

    embed_dim: int
    depth: int
    num_heads: int
    sub_ln: bool = True


TRV_SIZES = {
    "Ti": TrVSize(192, 12, 3, sub_ln=False),
    "S": TrVSize(384, 12, 6, sub_ln=False),
    "B": TrVSize(768, 12, 12),
    "L": TrVSize(1024, 24, 16),
}
