"""Axis-aligned boxes and their overlaps.

Axes: N, M boxes; four numbers each: x0, y0, x1, y1 in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ._box_mode import BoxMode

__all__ = ["BoxMode", "Boxes", "pairwise_intersection", "pairwise_iou"]


class Boxes:
    """A float32 [N, 4] tensor of boxes, in the attribute `tensor`."""

    def __init__(self, tensor: Tensor) -> None:
        given = tensor if isinstance(tensor, Tensor) else torch.as_tensor(tensor, device="cpu")
        rows = given.to(torch.float32)
        if rows.numel() == 0:
            rows = rows.reshape(-1, 4)
        if rows.dim() != 2 or rows.size(-1) != 4:
            raise AssertionError(f"boxes need the shape [N, 4], got {list(rows.shape)}")
        self.tensor = rows

    @property
    def device(self) -> torch.device:
        """Where the numbers live."""
        return self.tensor.device

    def to(self, device: torch.device) -> Boxes:
        """The same boxes on another device."""
        return Boxes(self.tensor.to(device=device))

    def clone(self) -> Boxes:
        """Boxes with memory of their own."""
        return Boxes(self.tensor.clone())

    def _sides(self) -> Tensor:
        """Widths and heights, [N, 2]."""
        return self.tensor[:, 2:] - self.tensor[:, :2]

    def area(self) -> Tensor:
        """Areas in square pixels, [N]."""
        return self._sides().prod(dim=1)

    def clip(self, box_size: tuple[int, int]) -> None:
        """Move every corner into an image of `box_size` (height, width); replaces `tensor`."""
        if not self.tensor.isfinite().all():
            raise AssertionError("boxes to clip hold NaN or infinite coordinates")
        height, width = box_size
        xs = self.tensor[:, 0::2].clamp(0, width)
        ys = self.tensor[:, 1::2].clamp(0, height)
        self.tensor = torch.stack((xs, ys), dim=2).flatten(1)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """Which boxes are wider and higher than `threshold` pixels, [N] bool."""
        return (self._sides() > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """Which boxes reach beyond an image of (height, width) by less than the threshold, [N] bool."""
        height, width = box_size
        low = (self.tensor[:, :2] >= -boundary_threshold).all(dim=1)
        right = self.tensor[:, 2] < width + boundary_threshold
        bottom = self.tensor[:, 3] < height + boundary_threshold
        return low & right & bottom

    def get_centers(self) -> Tensor:
        """Middle points (x, y), [N, 2]."""
        return self.tensor.unflatten(1, (2, 2)).mean(dim=1)

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the coordinates in place."""
        self.tensor[:, [0, 2]] *= scale_x
        self.tensor[:, [1, 3]] *= scale_y

    @classmethod
    def cat(cls, boxes_list: list[Boxes]) -> Boxes:
        """All boxes of the list, in order; an empty list gives no boxes."""
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]) if boxes_list else torch.empty(0))

    def __getitem__(self, item: Any) -> Boxes:
        """Rows by slice, index or mask tensor; a single int gives one box, still as [1, 4]."""
        picked = self.tensor[item]
        return Boxes(picked[None] if isinstance(item, int) else picked)

    def __len__(self) -> int:
        return len(self.tensor)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensor)

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Common area in square pixels, [N, M]."""

    def extent(axis: int) -> Tensor:
        """Common length along x (0) or y (1), [N, M]."""
        start = torch.maximum(boxes1.tensor[:, axis, None], boxes2.tensor[:, axis])
        stop = torch.minimum(boxes1.tensor[:, axis + 2, None], boxes2.tensor[:, axis + 2])
        return (stop - start).clamp_(min=0)

    return extent(0).mul_(extent(1))


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Intersection over union, [N, M]; 0 where nothing is shared, also for boxes without area."""
    common = pairwise_intersection(boxes1, boxes2)
    union = boxes1.area()[:, None] + boxes2.area() - common
    return torch.where(common > 0, common / union, common.new_zeros(()))
