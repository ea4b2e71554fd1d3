"""The objective: student and teacher agree in direction at every hidden patch.

Axes: B images, N patches, K slots for hidden patches, D width of the teacher's features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from eva02_det.layers.pick import pick


def hidden_targets(targets: Tensor, index: Tensor) -> Tensor:
    """The teacher's features of the hidden patches, [B, N, D] by [B, K] -> [B, K, D]."""
    return pick(targets, index)


def hidden_token_loss(predictions: Tensor, targets: Tensor, weight: Tensor, *, count: Tensor | float | None = None) -> Tensor:
    """Negative cosine similarity, averaged over the hidden tokens of the batch; in fp32 or better, in [-1, 1].

    An image with fewer hidden patches weighs less, as in the released code.

    Args:
        predictions: [B, K, D] of the student.
        targets: [B, K, D] of the teacher, without gradient.
        weight: [B, K], 0 for padding.
        count: what to divide by, default the sum of the weights (at least 1). Another count makes the parts of a larger batch
            add up: pass the tokens of all of it, and sum the losses (for DDP, which averages: divided by the processes).
    """
    similarity = F.cosine_similarity(_precise(predictions), _precise(targets), dim=-1, eps=1e-8)
    weight = weight.to(similarity.dtype)
    return -(similarity * weight).sum() / (weight.sum().clamp(min=1) if count is None else count)


def _precise(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))
