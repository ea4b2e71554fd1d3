"""Reference boxes of a region proposal network.

Axes: A anchors a cell, H rows and W columns of a map. Anchors are ordered by row, column, size, aspect ratio.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes
from torch import Tensor, nn


class DefaultAnchorGenerator(nn.Module):
    """Anchors of every size and aspect ratio (height / width) at every cell of every level.

    `sizes` (square roots of the areas, pixels) and `aspect_ratios` hold a list for each level, or one list for all;
    `strides` one number for each level; `offset` places the centre inside the cell, as a share of the stride.
    """

    box_dim = 4

    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]] | Sequence[float],
        aspect_ratios: Sequence[Sequence[float]] | Sequence[float],
        strides: Sequence[int],
        offset: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 <= offset < 1:
            raise AssertionError(f"the offset of anchors is a share of the stride, 0 <= offset < 1, got {offset}")
        self.strides = list(strides)
        self.num_features = len(self.strides)
        self.offset = offset
        shapes = zip(self._per_level(sizes), self._per_level(aspect_ratios), strict=True)
        # a module that only holds buffers: "cell_anchors.0", ...; they can be computed and are not saved
        self.cell_anchors = nn.Module()
        for level, (level_sizes, ratios) in enumerate(shapes):
            self.cell_anchors.register_buffer(str(level), cell_anchors(level_sizes, ratios), persistent=False)

    def _per_level(self, values: Sequence) -> list[Sequence[float]]:
        """One list of numbers for each level."""
        nested = list(values) if isinstance(values[0], Sequence) or hasattr(values[0], "__iter__") else [values]
        if len(nested) == 1:
            nested *= self.num_features
        if len(nested) != self.num_features:
            raise AssertionError(f"anchors for {len(nested)} levels, but {self.num_features} strides")
        return nested

    def _cells(self) -> list[Tensor]:
        return list(self.cell_anchors.buffers(recurse=False))

    @property
    def num_anchors(self) -> list[int]:
        """Anchors a cell, for each level."""
        return [len(cell) for cell in self._cells()]

    @property
    def num_cell_anchors(self) -> list[int]:
        """Another name of `num_anchors`."""
        return self.num_anchors

    def forward(self, features: list[Tensor]) -> list[Boxes]:
        """Maps [B, C, H, W], one a level -> boxes [H * W * A, 4], one set a level."""
        levels = zip(features, self.strides, self._cells(), strict=True)
        return [Boxes(self._grid(feature.shape[-2:], stride, cell)) for feature, stride, cell in levels]

    def _grid(self, size: tuple[int, int], stride: int, cell: Tensor) -> Tensor:
        """The cell's anchors moved to every position, [A, 4] -> [H * W * A, 4]."""
        ys, xs = ((torch.arange(count, device=cell.device, dtype=cell.dtype) + self.offset) * stride for count in size)
        centres = torch.stack((xs.expand(size), ys[:, None].expand(size)), dim=-1)  # [H, W, (x, y)]
        return (centres.repeat(1, 1, 2)[:, :, None] + cell).flatten(0, 2)


def cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """Boxes around the origin with area size^2 and the given height / width, sizes outermost, [A, 4]."""
    half = [(size / ratio**0.5 / 2, size * ratio**0.5 / 2) for size in sizes for ratio in aspect_ratios]
    corners = torch.tensor(half, dtype=torch.float32).reshape(-1, 2)
    return torch.cat((-corners, corners), dim=1)
