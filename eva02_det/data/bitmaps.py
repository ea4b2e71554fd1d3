"""Masks of an augmented image as bitmaps: polygons rasterised within their own box, run lengths decoded where they are seen.

Axes: N objects, M of them visible, H x W pixels of the augmented image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks
from detectron2.structures.masks import polygons_to_bitmask
from PIL import Image
from pycocotools import mask as coco_mask

from eva02_det.data.geometry import Geometry
from eva02_det.data.outlines import Outlines

Window = tuple[slice, slice]  # rows, columns


def bitmaps(
    segmentations: Sequence[Any], outlines: Outlines, transforms: T.TransformList, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray, BitMasks]:
    """The masks that are not empty in the augmented image. -> [M] which objects, [M, 4] boxes around them, M bitmaps [H, W].

    segmentations: [N] of the source image. outlines: the polygons among them, already in the augmented image.
    """
    drawn = np.unique(outlines.owner)
    polygons = dict(zip(drawn.tolist(), outlines.polygons(drawn)))
    sampler = RunSampler(geometry, transforms)
    windows = {index: sampler.window(one) for index, one in enumerate(segmentations) if isinstance(one, dict)}
    windows |= {index: _around(parts) for index, parts in polygons.items()}
    candidates = [index for index in sorted(windows) if windows[index] is not None]
    masks = np.zeros((len(candidates), *geometry.shape), dtype=bool)
    boxes = np.zeros((len(candidates), 4))
    for mask, box, index in zip(masks, boxes, candidates):
        rows, columns = window = windows[index]
        part = mask[rows, columns]
        part[:] = _rasterised(polygons[index], window, part.shape) if index in polygons else sampler(segmentations[index], window)
        box[:] = _box(part, columns.start, rows.start)
    filled = boxes[:, 2] > 0
    shown = masks if filled.all() else masks[filled]
    return np.array(candidates, dtype=np.int64)[filled], boxes[filled], BitMasks(torch.from_numpy(shown))


class RunSampler:
    """Looks up run-length masks of the source at the pixels of the augmented image, nearest neighbour as detectron2 does."""

    def __init__(self, geometry: Geometry, transforms: T.TransformList) -> None:
        (old_h, old_w), (new_h, new_w) = geometry.source, geometry.size
        top, left, height, width = geometry.window
        self.rows = _nearest(old_h, new_h)[top : top + height]
        columns = _nearest(old_w, new_w)[left : left + width]
        self.columns = old_w - 1 - columns if geometry.mirrored else columns
        self.padded, self.transforms, self.shape = any(geometry.padding), transforms, geometry.shape

    def window(self, runs: dict[str, Any]) -> Window | None:
        """The part of the augmented image in which a mask can be seen; None where there is none."""
        if self.padded:
            return slice(0, self.shape[0]), slice(0, self.shape[1])
        left, top, wide, high = coco_mask.toBbox(runs)
        rows = np.flatnonzero((self.rows >= top) & (self.rows < top + high))
        columns = np.flatnonzero((self.columns >= left) & (self.columns < left + wide))
        if not (len(rows) and len(columns)):
            return None
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)

    def __call__(self, runs: dict[str, Any], window: Window) -> np.ndarray:
        """The mask in a window of the augmented image."""
        bitmap = coco_mask.decode(runs)
        if self.padded:  # rare, and the value of the padding is the transforms' affair
            return self.transforms.apply_segmentation(bitmap)
        rows, columns = window
        return bitmap[self.rows[rows, None], self.columns[columns]]


def _around(polygons: list[np.ndarray]) -> Window:
    points = np.concatenate(polygons).reshape(-1, 2)
    x0, y0 = np.maximum(np.floor(points.min(axis=0)).astype(int) - 1, 0).tolist()
    x1, y1 = (np.ceil(points.max(axis=0)).astype(int) + 2).tolist()
    return slice(y0, y1), slice(x0, x1)


def _rasterised(polygons: list[np.ndarray], window: Window, shape: tuple[int, int]) -> np.ndarray:
    """COCO's rasteriser on a part of the image; a shift by whole pixels changes nothing."""
    origin = (window[1].start, window[0].start)
    return polygons_to_bitmask([(one.reshape(-1, 2) - origin).ravel() for one in polygons], *shape)


def _box(part: np.ndarray, left: int, top: int) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 around the pixels of a part that begins at (left, top); zeros where there are none."""
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1


def _nearest(old: int, new: int) -> np.ndarray:
    """The source index of each index after Pillow's nearest-neighbour resize, by resizing the indices themselves. [new]."""
    ramp = Image.fromarray(np.arange(old, dtype=np.int32)[None])
    return np.asarray(ramp.resize((new, 1), Image.Resampling.NEAREST))[0]
