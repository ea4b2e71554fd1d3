"""Rows of a batch by index, the same number from every image.

Axes: B images, N tokens, K picked tokens.
"""

from torch import Tensor


def pick(rows: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, K] of each image, [B, N, ...] -> [B, K, ...]; no image may name a row outside its own N."""
    index = index.view(*index.shape, *[1] * (rows.ndim - 2)).expand(-1, -1, *rows.shape[2:])
    return rows.gather(1, index)
