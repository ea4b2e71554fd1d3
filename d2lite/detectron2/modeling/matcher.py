"""Which ground truth a box belongs to, and whether the match is good.

Axes: M ground truths, N boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Matcher:
    """Labels boxes by their best overlap q: `labels[i]` where thresholds[i - 1] <= q < thresholds[i].

    Labels are 1 (positive), 0 (negative) or -1 (ignored); there is one more than thresholds, for the open ends. With
    `allow_low_quality_matches` the best box of every ground truth (ties included) is positive whatever its overlap.
    """

    def __init__(self, thresholds: list[float], labels: list[int], allow_low_quality_matches: bool = False) -> None:
        bounds = [-float("inf"), *thresholds, float("inf")]
        if bounds != sorted(bounds) or any(limit <= 0 for limit in thresholds[:1]):
            raise AssertionError(f"thresholds must be positive and must not fall: {list(thresholds)}")
        if len(labels) != len(thresholds) + 1 or not set(labels) <= {-1, 0, 1}:
            raise AssertionError(f"{len(thresholds)} thresholds need one more labels, each -1, 0 or 1: {list(labels)}")
        self.thresholds = bounds
        self.labels = list(labels)
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Overlaps [M, N] -> index of the best ground truth [N] int64 and label [N] int8; without any, 0 and the lowest."""
        overlaps = match_quality_matrix
        if overlaps.dim() != 2:
            raise AssertionError(f"overlaps need the shape [M, N], got {list(overlaps.shape)}")
        labels = torch.full(overlaps.shape[1:], self.labels[0], dtype=torch.int8, device=overlaps.device)
        if overlaps.shape[0] == 0:
            return torch.zeros_like(labels, dtype=torch.int64), labels
        best, matches = overlaps.max(dim=0)
        for limit, label in zip(self.thresholds[1:-1], self.labels[1:], strict=True):
            labels.masked_fill_(best >= limit, label)
        if self.allow_low_quality_matches and overlaps.shape[1]:
            is_best = overlaps == overlaps.amax(dim=1, keepdim=True)
            labels.masked_fill_(is_best.any(dim=0), 1)
        return matches, labels
