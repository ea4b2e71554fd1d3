"""Random choice of positives and negatives for a loss."""

from __future__ import annotations

import torch
from torch import Tensor


def subsample_labels(labels: Tensor, num_samples: int, positive_fraction: float, bg_label: int) -> tuple[Tensor, Tensor]:
    """Draw at most `num_samples` of the labels [N] that are not -1, at most `positive_fraction` of them not background.

    Returns the drawn positions of positives and of negatives, int64 each. Negatives fill up what positives leave.
    """
    negative = labels == bg_label
    positive = (labels != -1) & ~negative
    chosen = _draw(positive, int(num_samples * positive_fraction))
    return chosen, _draw(negative, num_samples - len(chosen))


def _draw(candidates: Tensor, count: int) -> Tensor:
    """`count` (or all, if fewer) of the set positions of a [N] bool tensor, in random order."""
    places = candidates.nonzero().flatten()
    return places[torch.randperm(len(places), device=places.device)[:count]]
