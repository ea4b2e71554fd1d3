"""RoI pooling from the levels of a pyramid (FPN, arXiv:1612.03144, section 4.2).

Axes: B images, R boxes of the batch, L levels.
"""

from __future__ import annotations

import math

import torch
from detectron2.layers import ROIAlign
from detectron2.structures import Boxes
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

# pooler_type -> half-pixel alignment
POOLER_TYPES = {"ROIAlign": False, "ROIAlignV2": True}


def assign_boxes_to_levels(
    box_lists: list[Boxes], min_level: int, max_level: int, canonical_box_size: int, canonical_level: int
) -> Tensor:
    """Level of every box, counted from `min_level`: one up for each doubling of its side beyond the canonical size. [R]"""
    sides = torch.cat([boxes.area() for boxes in box_lists]).sqrt()
    octaves = torch.log2(sides / canonical_box_size + 1e-8)  # a box without area goes to the lowest level
    return (canonical_level + octaves).floor().clamp(min_level, max_level).to(torch.int64) - min_level


def convert_boxes_to_pooler_format(box_lists: list[Boxes]) -> Tensor:
    """Boxes of B images -> [R, 5]: index of the image, then the box."""
    return torch.cat([nn.functional.pad(boxes.tensor, (1, 0), value=image) for image, boxes in enumerate(box_lists)])


class ROIPooler(nn.Module):
    """Pools each box from the level that suits its size.

    `scales` are the levels' sizes relative to the image (1/4, 1/8, ...), neighbours differing by a factor of 2. A box
    of side `canonical_box_size` pixels goes to level `canonical_level`, where level k has stride 2^k.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        scales: list[float],
        sampling_ratio: int,
        pooler_type: str,
        canonical_box_size: int = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        if pooler_type not in POOLER_TYPES:
            raise ValueError(f"pooler_type={pooler_type!r} is not offered; choose one of {sorted(POOLER_TYPES)}")
        levels = [-math.log2(scale) for scale in scales]
        if levels != [levels[0] + step for step in range(len(levels))] or levels[0] != int(levels[0]):
            raise AssertionError(f"the scales {list(scales)} are not neighbouring powers of two")
        self.output_size = _pair(output_size)
        aligned = POOLER_TYPES[pooler_type]
        self.level_poolers = nn.ModuleList(
            ROIAlign(self.output_size, spatial_scale=scale, sampling_ratio=sampling_ratio, aligned=aligned) for scale in scales
        )
        self.min_level, self.max_level = int(levels[0]), int(levels[-1])
        self.canonical_box_size = canonical_box_size
        self.canonical_level = canonical_level

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """Maps [B, C, H, W], one a level, and boxes of each image -> [R, C, h, w], image after image."""
        if len(x) != len(self.level_poolers) or any(len(feature) != len(box_lists) for feature in x):
            raise AssertionError(f"{len(x)} maps, {len(self.level_poolers)} levels and boxes of {len(box_lists)} images")
        if not box_lists:
            return x[0].new_zeros(0, x[0].shape[1], *self.output_size)
        rois = convert_boxes_to_pooler_format(box_lists)
        if len(x) == 1:
            return self.level_poolers[0](x[0], rois)
        return self._pool_by_level(x, rois, assign_boxes_to_levels(box_lists, *self._level_rule))

    @property
    def _level_rule(self) -> tuple[int, int, int, int]:
        return self.min_level, self.max_level, self.canonical_box_size, self.canonical_level

    def _pool_by_level(self, x: list[Tensor], rois: Tensor, levels: Tensor) -> Tensor:
        """Sort by level, pool each level's share in one call, and undo the sorting; the host waits once, for the counts."""
        order = levels.argsort(stable=True)
        shares = rois[order].split(torch.bincount(levels, minlength=len(x)).tolist())
        pooled = [pool(feature, share) for pool, feature, share in zip(self.level_poolers, x, shares, strict=True)]
        return torch.cat(pooled)[order.argsort()]
