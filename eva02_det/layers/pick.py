"""Rows of a batch by index, the same number from every image.

Axes: B images, N tokens, K picked tokens.
"""

import torch
from torch import Tensor


def pick(rows: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, K] of each image, [B, N, ...] -> [B, K, ...]; no image may name a row outside its own N.

    Whole rows of one long table, which is several times as fast on a CPU as a gather with an index for every number.
    """
    first = torch.arange(len(rows), device=index.device)[:, None] * rows.shape[1]
    return rows.flatten(0, 1).index_select(0, (index + first).flatten()).unflatten(0, index.shape)
