"""How sure a predicted mask is of its own inside."""

import torch
from torch import Tensor


def mask_confidence(probabilities: Tensor, threshold: float = 0.5) -> Tensor:
    """Mean probability over the pixels strictly above the threshold. [R, ..., S, S] in [0, 1] -> [R].

    A mask without such a pixel scores 0. Called "maskness" by the authors of EVA-02.
    """
    flat = probabilities.flatten(1)
    inside = flat > threshold
    return torch.where(inside, flat, 0).sum(1) / inside.sum(1).clamp(min=1)
