"""Patch kernels and position tables in another size.

Axes: D width, P patch side, N = side * side positions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

METHODS = ("bicubic", "pseudo_inverse")


def resize_patch_kernel(kernel: Tensor, side: int, method: str = "bicubic") -> Tensor:
    """[D, 3, P, P] -> [D, 3, side, side] in float32, whatever the type of the kernel.

    Args:
        method: "bicubic" (cubic convolution -0.75, no antialiasing, values not rescaled) is how the released p14to16 files
            were made; it enlarges the response by (side / P)^2. "pseudo_inverse" keeps it: the projection of an image
            resized to the new patch is, in the least-squares sense, that of the original (FlexiViT, arXiv:2212.08013, 3.4).
    """
    if method not in METHODS:
        raise ValueError(f"resize={method!r} is unknown; choose one of {', '.join(METHODS)}")
    kernel = kernel.float()
    if kernel.shape[-1] == side:
        return kernel
    if method == "bicubic":
        return F.interpolate(kernel, size=(side, side), mode="bicubic", align_corners=False)
    forward = _resizing_matrix(kernel.shape[-1], side)
    return (kernel.flatten(2).double() @ torch.linalg.pinv(forward)).float().unflatten(2, (side, side))


def _resizing_matrix(old: int, new: int) -> Tensor:
    """[new^2, old^2] in float64: antialiased bicubic resizing of a patch, as a matrix on its pixels."""
    pixels = torch.eye(old**2, dtype=torch.float64).view(old**2, 1, old, old)
    resized = F.interpolate(pixels, size=(new, new), mode="bicubic", antialias=True, align_corners=False)
    return resized.flatten(1).T


def resize_position_table(table: Tensor, rows: int) -> Tensor:
    """[1, N (+ 1), D] -> [1, rows, D], bicubic, in its own type. The first row of a table with N + 1 is the class token's.

    A class row is copied, dropped where `rows` has none, and zero where only `rows` has one (detection never reads it).
    """
    old, new = position_grid(table.shape[1]), position_grid(rows)
    if old is None or new is None:
        raise ValueError(f"{table.shape[1]} or {rows} rows are no square of positions, with or without a class row")
    places, cls_row = table[:, table.shape[1] - old**2 :], table[:, : table.shape[1] - old**2]
    if old != new:
        pixels = places.float().unflatten(1, (old, old)).permute(0, 3, 1, 2)
        resized = F.interpolate(pixels, size=(new, new), mode="bicubic", align_corners=False)
        places = resized.flatten(2).transpose(1, 2).to(table.dtype)
    wanted = rows - new**2
    if wanted and not cls_row.shape[1]:
        cls_row = places.new_zeros(1, 1, places.shape[2])
    return torch.cat((cls_row[:, :wanted], places), 1)


def position_grid(rows: int) -> int | None:
    """Side of the square of positions in a table of `rows` rows, with or without a class row; None where there is none."""
    side = math.isqrt(rows)
    return side if rows - side**2 in {0, 1} and side else None
