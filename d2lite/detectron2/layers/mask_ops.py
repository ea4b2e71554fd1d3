"""Putting small mask predictions back into the image.

Axes: N masks, S side of a predicted mask, H rows and W columns of the image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from detectron2.structures import Boxes

GPU_CHUNK_PIXELS = 2**28  # float32 samples in flight, 1 GiB


def paste_masks_in_image(masks: Tensor, boxes: Boxes | Tensor, image_shape: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Stretch mask i over box i by bilinear interpolation.

    [N, S, S] probabilities and [N, 4] boxes -> [N, H, W] bool (probability at least `threshold`), or uint8 with
    probabilities times 255 when the threshold is negative.
    """
    if masks.shape[-1] != masks.shape[-2]:
        raise AssertionError("only square mask predictions can be pasted")
    height, width = image_shape
    corners = boxes if isinstance(boxes, Tensor) else boxes.tensor
    if len(corners) != len(masks):
        raise AssertionError(f"{len(masks)} masks for {len(corners)} boxes")
    dtype = torch.bool if threshold >= 0 and len(masks) else torch.uint8
    canvas = torch.zeros(len(masks), height, width, dtype=dtype, device=masks.device)
    probs = masks if masks.is_floating_point() else masks.float()
    for rows in _chunks(len(masks), height * width, masks.device.type):
        window = _window(corners[rows], height, width)
        values = _sample(probs[rows], corners[rows], window)
        top, bottom, left, right = window
        canvas[rows, top:bottom, left:right] = values >= threshold if threshold >= 0 else (values * 255).to(torch.uint8)
    return canvas


def _chunks(count: int, pixels: int, device: str) -> list[slice]:
    """On the host one mask at a time (a small window each); elsewhere as many as memory allows, whole image."""
    size = 1 if device == "cpu" else max(1, GPU_CHUNK_PIXELS // max(pixels, 1))
    return [slice(start, start + size) for start in range(0, count, size)]


def _window(corners: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """Rows and columns (top, bottom, left, right) that the boxes can touch; everything where reading them would stall."""
    if corners.device.type != "cpu":
        return 0, height, 0, width
    left, top = (max(0, math.floor(low) - 1) for low in corners[:, :2].amin(dim=0).tolist())
    right, bottom = (math.ceil(high) + 1 for high in corners[:, 2:].amax(dim=0).tolist())
    bottom, right = min(bottom, height), min(right, width)
    return min(top, bottom), max(bottom, 0), min(left, right), max(right, 0)


def _sample(probs: Tensor, corners: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    """Probabilities at the pixel centres of the window; 0 outside the boxes. [n, S, S] -> [n, rows, columns]."""
    top, bottom, left, right = window
    ys = _normalised(top, bottom, corners[:, 1::2])
    xs = _normalised(left, right, corners[:, 0::2])
    shape = (len(probs), bottom - top, right - left)
    grid = torch.stack((xs[:, None, :].expand(shape), ys[:, :, None].expand(shape)), dim=-1)
    return F.grid_sample(probs[:, None], grid.to(probs.dtype), align_corners=False)[:, 0]


def _normalised(start: int, stop: int, limits: Tensor) -> Tensor:
    """Pixel centres start..stop-1 in box coordinates, -1 at the lower and 1 at the upper limit. [n, 2] -> [n, stop - start]."""
    centres = torch.arange(start, stop, device=limits.device, dtype=torch.float32) + 0.5
    low, high = limits[:, :1], limits[:, 1:]
    return (centres - low) / (high - low).clamp(min=1e-6) * 2 - 1
