"""The four sizes of EVA-02 and the rule for which blocks are global."""

from eva02_det.layers.sizes import TRV_SIZES, TrVSize

__all__ = ["TRV_SIZES", "TrVSize", "spaced_global_blocks"]


def spaced_global_blocks(depth: int, count: int) -> tuple[int, ...]:
    """Indexes of `count` global blocks at equal distance among `depth`, the last block one of them; 0: all windowed."""
    if count == 0:
        return ()
    if count < 0 or depth % count:
        raise ValueError(f"{count} global blocks do not divide {depth} blocks evenly; name the indexes instead")
    return tuple(range(depth // count - 1, depth, depth // count))
