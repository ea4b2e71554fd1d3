"""The four sizes of EVA-02 and the rule for which blocks are global."""

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


def spaced_global_blocks(depth: int, count: int) -> tuple[int, ...]:
    """Indexes of `count` global blocks at equal distance among `depth`, the last block one of them; 0: all windowed."""
    if count == 0:
        return ()
    if count < 0 or depth % count:
        raise ValueError(f"{count} global blocks do not divide {depth} blocks evenly; name the indexes instead")
    return tuple(range(depth // count - 1, depth, depth // count))
