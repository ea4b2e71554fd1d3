"""Masks as lists of polygons, the form of COCO annotations.

Axes: N objects, S side of a cropped mask. A polygon is a flat float64 array x0, y0, x1, y1, ... in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pycocotools.mask as rle_tools
import torch
from torch import Tensor

from .boxes import Boxes

MIN_CROP_SIDE_PX = 0.1  # a narrower box is stretched as if it were this wide


def polygons_to_bitmask(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Union of the polygons of one object as [height, width] bool, by COCO's own rasteriser."""
    if len(polygons) == 0:
        return np.zeros((height, width), dtype=bool)
    parts = rle_tools.frPyObjects(list(polygons), height, width)
    return rle_tools.decode(rle_tools.merge(parts)).astype(bool)


class PolygonMasks:
    """The polygons of N objects; `polygons[i]` is the list of object i."""

    def __init__(self, polygons: list[list[Tensor | np.ndarray]]) -> None:
        if not isinstance(polygons, list):
            raise ValueError(f"polygons come as a list of lists, not as {type(polygons).__name__}")
        self.polygons: list[list[np.ndarray]] = [_checked(parts) for parts in polygons]

    @property
    def device(self) -> torch.device:
        """Polygons always stay in host memory."""
        return torch.device("cpu")

    def to(self, *args: Any, **kwargs: Any) -> PolygonMasks:
        """Itself, whatever the device: rasterising is done on the host."""
        return self

    def __len__(self) -> int:
        return len(self.polygons)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return iter(self.polygons)

    def __getitem__(self, item: Any) -> PolygonMasks:
        """Objects by int, slice, list of ints, index tensor or bool tensor."""
        if isinstance(item, slice):
            return _trusted(self.polygons[item])
        if isinstance(item, (Tensor, np.ndarray)):
            picks = torch.as_tensor(item).cpu()
            item = (picks.nonzero().flatten() if picks.dtype == torch.bool else picks).tolist()
        rows = item if isinstance(item, list) else [item]
        return _trusted([self.polygons[row] for row in rows])

    def __repr__(self) -> str:
        return f"PolygonMasks(num_instances={len(self)})"

    def nonempty(self) -> Tensor:
        """Which objects have a polygon, [N] bool."""
        return torch.tensor([bool(parts) for parts in self.polygons], dtype=torch.bool)

    def get_bounding_boxes(self) -> Boxes:
        """Boxes around the vertices, [N, 4]; no polygon gives the impossible box (inf, inf, 0, 0)."""
        corners = np.empty((len(self), 4), dtype=np.float32)
        for row, parts in zip(corners, self.polygons, strict=True):
            points = np.concatenate([part.reshape(-1, 2) for part in parts] or [np.empty((0, 2))])
            row[:2] = points.min(axis=0, initial=np.inf)
            row[2:] = points.max(axis=0, initial=0)
        return Boxes(torch.from_numpy(corners))

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """The part of object i inside box i, rasterised at S x S. [N, 4] -> [N, S, S] bool on the device of the boxes."""
        if len(boxes) != len(self):
            raise AssertionError(f"{len(boxes)} boxes for {len(self)} objects")
        corners = boxes.detach().cpu().numpy()
        origins = corners[:, :2]
        zooms = mask_size / np.maximum(corners[:, 2:] - origins, MIN_CROP_SIDE_PX)
        crops = np.empty((len(self), mask_size, mask_size), dtype=bool)
        for crop, parts, origin, zoom in zip(crops, self.polygons, origins, zooms, strict=True):
            local = [((part.reshape(-1, 2) - origin) * zoom).ravel() for part in parts]
            crop[:] = polygons_to_bitmask(local, mask_size, mask_size)
        return torch.from_numpy(crops).to(boxes.device)

    def area(self) -> Tensor:
        """Sum of the polygon areas of every object, [N] float64; overlaps count twice."""
        return torch.tensor([float(sum(map(_polygon_area, parts))) for parts in self.polygons], dtype=torch.float64)

    @staticmethod
    def cat(polymasks_list: list[PolygonMasks]) -> PolygonMasks:
        """All objects of the list, in order."""
        return _trusted([parts for masks in polymasks_list for parts in masks.polygons])


def _trusted(polygons: list[list[np.ndarray]]) -> PolygonMasks:
    """A PolygonMasks of polygons that were checked before; indexing happens for every image of every step."""
    masks = PolygonMasks([])
    masks.polygons = polygons
    return masks


def _checked(parts: list[Tensor | np.ndarray]) -> list[np.ndarray]:
    """The polygons of one object as float64 arrays."""
    if not isinstance(parts, list):
        raise ValueError(f"the polygons of one object come as a list, not as {type(parts).__name__}")
    arrays = [np.asarray(part.cpu() if isinstance(part, Tensor) else part, dtype=np.float64) for part in parts]
    for array in arrays:
        if array.size < 6 or array.size % 2:
            raise ValueError(f"{array.size} numbers are no polygon: three points or more are needed, x and y each")
    return arrays


def _polygon_area(flat: np.ndarray) -> float:
    """Shoelace formula."""
    x, y = flat[0::2], flat[1::2]
    return 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))
