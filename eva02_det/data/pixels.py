"""The pixels of a picture that a `Geometry` keeps, none resized that is cut away.

Axes: C = 3 colours, H rows, W columns.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from eva02_det.data.geometry import Geometry

NUDGE = 1 + 1e-9  # torch cuts old * (new / old) down to a whole number, which rounding may have put just below `new`
WIDE_WASTE = 0.25  # of the window; above it, columns left of the window are dropped between the two passes


def render(picture: Image.Image, geometry: Geometry) -> Tensor:
    """What `geometry` makes of an RGB picture. -> [C, H, W] uint8, contiguous.

    The filter is Pillow's bilinear one with antialiasing, computed by torch, whose vectorised kernel rounds a few pixels
    in a thousand to the neighbouring grey level.
    """
    if geometry.mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    kept = _resized_window(picture, geometry)
    if not any(geometry.padding):
        return kept
    left, top, right, bottom = geometry.padding
    return F.pad(kept, (left, right, top, bottom), value=geometry.fill)


def _resized_window(picture: Image.Image, geometry: Geometry) -> Tensor:
    """The window of the resized picture. -> [C, H, W].

    torch resizes from the first row and column on; what lies behind the window is never computed.
    """
    (old_h, old_w), (new_h, new_w) = geometry.source, geometry.size
    top, left, height, width = geometry.window
    rows, columns = _needed(old_h, new_h, top + height), _needed(old_w, new_w, left + width)
    source = _tensor(picture, rows, columns)
    if left <= WIDE_WASTE * width or new_h == old_h:
        resized = _resize(source, (old_h, new_h), (old_w, new_w))
        return resized[0, :, top : top + height, left : left + width].contiguous()
    # few rows are needed to fill the window, so a first pass along them is cheap
    wide = _resize(source, (old_h, old_h), (old_w, new_w))[..., left : left + width]
    tall = _resize(wide.contiguous(memory_format=torch.channels_last), (old_h, new_h), (1, 1))
    return tall[0, :, top : top + height].contiguous()


def _needed(old: int, new: int, last: int) -> int:
    """How many source rows the first `last` of `new` output rows are made of, the reach of the filter included."""
    scale = old / new
    return old if last >= new else min(old, math.ceil(last * scale) + math.ceil(max(scale, 1.0)) + 1)


def _tensor(picture: Image.Image, rows: int, columns: int) -> Tensor:
    """The upper left part of a picture. -> [1, C, H, W]."""
    part = picture if (columns, rows) == picture.size else picture.crop((0, 0, columns, rows))
    return torch.from_numpy(np.array(part)).permute(2, 0, 1)[None]


def _resize(source: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """Resize by the factors (old, new) of the whole image; of a part, as many whole pixels as it gives. [1, C, H, W]."""
    if rows[0] == rows[1] and columns[0] == columns[1]:
        return source
    height, width = source.shape[2:]
    if height == rows[0] and width == columns[0]:
        return F.interpolate(source, size=(rows[1], columns[1]), mode="bilinear", antialias=True)
    factors = (rows[1] / rows[0] * NUDGE, columns[1] / columns[0] * NUDGE)
    return F.interpolate(source, scale_factor=factors, mode="bilinear", antialias=True)
