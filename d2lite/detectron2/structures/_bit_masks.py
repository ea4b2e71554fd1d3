"""Masks as bitmaps.

Axes: N masks, H rows, W columns, S side of a cropped mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from ._polygon_masks import polygons_to_bitmask
from .boxes import Boxes

if TYPE_CHECKING:
    from ._polygon_masks import PolygonMasks


class BitMasks:
    """One bool image an object, in the attribute `tensor` [N, H, W]; `image_size` is (H, W)."""

    def __init__(self, tensor: Tensor | np.ndarray) -> None:
        bits = torch.as_tensor(tensor).to(torch.bool)
        if bits.dim() != 3:
            raise AssertionError(f"bitmaps need the shape [N, H, W], got {list(bits.shape)}")
        self.tensor = bits
        self.image_size = bits.shape[1:]

    @property
    def device(self) -> torch.device:
        """Where the bits live."""
        return self.tensor.device

    def to(self, *args: Any, **kwargs: Any) -> BitMasks:
        """As `Tensor.to`."""
        return BitMasks(self.tensor.to(*args, **kwargs))

    def __len__(self) -> int:
        return len(self.tensor)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensor)

    def __getitem__(self, item: Any) -> BitMasks:
        """Masks by slice, index or mask tensor; an int gives one mask, still [1, H, W]."""
        picked = self.tensor[item]
        return BitMasks(picked[None] if isinstance(item, int) else picked)

    def __repr__(self) -> str:
        return f"BitMasks(num_instances={len(self)})"

    def nonempty(self) -> Tensor:
        """Which masks have a pixel, [N] bool."""
        return self.tensor.flatten(1).any(dim=1)

    @staticmethod
    def from_polygon_masks(polygon_masks: PolygonMasks | list[list[np.ndarray]], height: int, width: int) -> BitMasks:
        """Rasterise the polygons of every object into height x width pixels."""
        bitmaps = np.zeros((len(polygon_masks), height, width), dtype=bool)
        for target, polygons in zip(bitmaps, polygon_masks, strict=True):
            target[:] = polygons_to_bitmask(polygons, height, width)
        return BitMasks(bitmaps)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """The part of mask i inside box i, brought to S x S and cut at one half. [N, 4] -> [N, S, S] bool."""
        device = boxes.device
        owner = torch.arange(len(boxes), device=device, dtype=boxes.dtype)
        rois = torch.cat((owner[:, None], boxes), dim=1)
        maps = self.tensor.to(device=device, dtype=torch.float32)[:, None]
        coverage = roi_align(maps, rois, (mask_size, mask_size), 1.0, 0, aligned=True)
        return coverage[:, 0] >= 0.5

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes whose lower right corner lies behind the last pixel; an empty mask gives zeros."""
        x0, x1 = _span(self.tensor.any(dim=1))
        y0, y1 = _span(self.tensor.any(dim=2))
        return Boxes(torch.stack((x0, y0, x1, y1), dim=1))

    @staticmethod
    def cat(bitmasks_list: list[BitMasks]) -> BitMasks:
        """All masks of the list, in order."""
        return BitMasks(torch.cat([masks.tensor for masks in bitmasks_list]))


def _span(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First set position and the one behind the last, [N, L] bool -> [N], [N]; zeros where nothing is set."""
    place = torch.arange(1, occupied.shape[1] + 1, device=occupied.device) * occupied
    stop = place.amax(dim=1) if occupied.shape[1] else place.sum(dim=1)
    start = occupied.int().argmax(dim=1) if occupied.shape[1] else stop
    return start, stop
