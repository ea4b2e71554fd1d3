"""Polygons of all objects of an image at once: moved by NumPy, and cut by shapely only where they cross the edge.

Axes: N objects, Q polygons, P points of all polygons together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from detectron2.data import transforms as T

POLYGON = 3  # shapely's number for that type


@dataclass(frozen=True)
class Outlines:
    """points [P, 2] as x, y; length [Q] points of each polygon, one after another; owner [Q] object of each polygon."""

    points: np.ndarray
    length: np.ndarray
    owner: np.ndarray

    @classmethod
    def of(cls, masks: Sequence[Sequence[Any]]) -> "Outlines":
        """From COCO's polygons x, y, x, y, ... of each object."""
        flat = [np.asarray(polygon, dtype=np.float64) for polygons in masks for polygon in polygons]
        owner = np.repeat(np.arange(len(masks)), [len(polygons) for polygons in masks])
        return cls(_joined(flat).reshape(-1, 2), np.array([part.size // 2 for part in flat], dtype=np.int64), owner)

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each polygon begins. [Q]."""
        return np.cumsum(self.length) - self.length

    @cached_property
    def extent(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest x, y of each polygon. [Q, 2] twice."""
        if not len(self.length):
            return np.empty((0, 2)), np.empty((0, 2))
        return np.minimum.reduceat(self.points, self.starts), np.maximum.reduceat(self.points, self.starts)

    def moved(self, transforms: Iterable[T.Transform]) -> "Outlines":
        """Carried through flips, resizes, crops and pads; a crop leaves what is inside its window."""
        outlines = self
        for transform in transforms:
            if isinstance(transform, T.CropTransform):
                x0, y0 = transform.x0, transform.y0
                outlines = outlines.clipped((x0, y0, x0 + transform.w, y0 + transform.h))
            outlines = Outlines(transform.apply_coords(outlines.points.copy()), outlines.length, outlines.owner)
        return outlines

    def clipped(self, window: tuple[float, float, float, float]) -> "Outlines":
        """The parts inside a window x0, y0, x1, y1, as fvcore's CropTransform cuts them.

        A polygon that is inside and does not cross itself stays as it is; one wholly outside goes; the others are repaired
        and cut, which may give several polygons, or none. Holes are not kept.
        """
        low, high = self.extent
        corner, opposite = np.array(window[:2]), np.array(window[2:])
        visible = np.flatnonzero(((high > corner) & (low < opposite)).all(axis=1))
        shapes = shapely.polygons(self._rings(visible)) if len(visible) else np.empty(0, dtype=object)
        inside = ((low >= corner) & (high <= opposite)).all(axis=1)[visible]
        whole = inside & shapely.is_valid(shapes)
        kept = self._take(visible[whole])
        if whole.all():
            return kept
        return kept.joined(_cut(shapes[~whole], self.owner[visible[~whole]], window))

    def joined(self, other: "Outlines") -> "Outlines":
        """Both, polygons of one object next to each other."""
        both = Outlines(
            np.concatenate([self.points, other.points]),
            np.concatenate([self.length, other.length]),
            np.concatenate([self.owner, other.owner]),
        )
        return both._take(np.argsort(both.owner, kind="stable"))

    def boxes(self, objects: np.ndarray) -> np.ndarray:
        """Boxes x0, y0, x1, y1 around the points of objects that have some. [M] -> [M, 4]."""
        low, high = self.extent
        first = np.searchsorted(self.owner, objects)
        if not len(objects):
            return np.empty((0, 4))
        return np.hstack([np.minimum.reduceat(low, first), np.maximum.reduceat(high, first)])

    def polygons(self, objects: np.ndarray) -> list[list[np.ndarray]]:
        """COCO's form again, for some of the objects. [M] -> M lists of x, y, x, y, ..."""
        parts: dict[int, list[np.ndarray]] = {int(number): [] for number in objects}
        for owner, start, length in zip(self.owner.tolist(), self.starts.tolist(), self.length.tolist()):
            if owner in parts:
                parts[owner].append(self.points[start : start + length].reshape(-1))
        return list(parts.values())

    def _take(self, rows: np.ndarray) -> "Outlines":
        if len(rows) == len(self.length) and (rows == np.arange(len(rows))).all():
            return self
        length = self.length[rows]
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        return Outlines(self.points[np.repeat(self.starts[rows], length) + within], length, self.owner[rows])

    def _rings(self, rows: np.ndarray) -> np.ndarray:
        part = self._take(rows)
        return shapely.linearrings(part.points, indices=np.repeat(np.arange(len(rows)), part.length))


def _cut(shapes: np.ndarray, owner: np.ndarray, window: tuple[float, float, float, float]) -> Outlines:
    """Repair polygons and intersect them with a window; lines and points that remain of a touch are left out."""
    repaired = shapely.buffer(shapes, 0.0)
    parts, origin = shapely.get_parts(shapely.intersection(repaired, shapely.box(*window)), return_index=True)
    areas = (shapely.get_type_id(parts) == POLYGON) & ~shapely.is_empty(parts)
    parts, origin = parts[areas], origin[areas]
    points, ring = shapely.get_coordinates(shapely.get_exterior_ring(parts), return_index=True)
    # shapely repeats the first point at the end
    closing = np.flatnonzero(np.append(ring[1:] != ring[:-1], True)) if len(ring) else np.empty(0, dtype=np.int64)
    length = np.bincount(ring, minlength=len(parts)) - 1
    return Outlines(np.delete(points, closing, axis=0), length, owner[origin])


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.empty(0)
