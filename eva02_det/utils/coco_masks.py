"""Binary masks as COCO files store them: an exact polygon where there is one, else run lengths."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

# Axes: H, W rows and columns. The pixel (row, col) is the unit square whose upper left corner has x = col, y = row.
Mask = NDArray[np.bool_]


def box_around(mask: Mask) -> list[int]:
    """[x, y, width, height] of the smallest box of whole pixels that holds a mask [H, W]; zeros for an empty one."""
    if not mask.any():
        return [0, 0, 0, 0]
    cols, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    left, top = int(cols[0]), int(rows[0])
    return [left, top, int(cols[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def outline(mask: Mask) -> list[int] | None:
    """The polygon [x, y, x, y, ...] along the pixel edges around a mask [H, W], which rasterises to exactly that mask.

    None where one polygon that meets itself nowhere cannot do it: holes, several parts, parts that touch at a corner.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    down, right = np.diff(padded, axis=0), np.diff(padded, axis=1)
    following: dict[tuple[int, int], tuple[int, int]] = {}  # corner -> next corner, the mask to the right of the way
    edges = 0
    for rows_cols, start, end in (
        (np.argwhere(down[:, 1:-1] == 1), (0, 0), (1, 0)),  # top edges, rightwards
        (np.argwhere(right[1:-1] == -1), (0, 0), (0, 1)),  # right edges, downwards
        (np.argwhere(down[:, 1:-1] == -1), (1, 0), (0, 0)),  # bottom edges, leftwards
        (np.argwhere(right[1:-1] == 1), (0, 1), (0, 0)),  # left edges, upwards
    ):
        edges += len(rows_cols)
        following.update(((c + start[0], r + start[1]), (c + end[0], r + end[1])) for r, c in rows_cols.tolist())
    if not edges or len(following) < edges:
        return None
    path = [min(following)]
    while (corner := following[path[-1]]) != path[0]:
        path.append(corner)
    if len(path) < edges:
        return None
    bends = [b for a, b, c in zip(path[-1:] + path, path, path[1:] + path[:1]) if b[0] - a[0] != c[0] - b[0]]
    return [coordinate for corner in bends for coordinate in corner]


def segmentation(mask: Mask) -> list[list[int]] | dict[str, Any]:
    """A mask [H, W] as COCO stores it: one polygon where that is exact, else compressed run lengths."""
    polygon = outline(mask)
    if polygon is not None:
        return [polygon]
    runs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode("ascii")}


def mask_of(stored: list[list[float]] | dict[str, Any], height: int, width: int) -> Mask:
    """The mask [H, W] behind a COCO segmentation: polygons, or run lengths, compressed or not."""
    compressed = isinstance(stored, dict) and not isinstance(stored["counts"], list)
    runs = stored if compressed else coco_mask.frPyObjects(stored, height, width)
    return np.asarray(coco_mask.decode(coco_mask.merge(runs) if isinstance(runs, list) else runs)).astype(bool)
