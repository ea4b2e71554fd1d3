"""Laying one picture over another: affine maps between their pixels, and the refinement of such a map on what both show.

Axes: H, W rows and columns of the fixed picture.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ITERATIONS = 6  # at each size
SMALLEST_SIDE_PX = 24  # a picture is not made smaller than this for the first steps
FAINT = 2.0  # grey values: details that are less stay small
NOISE = 0.6  # of the pictures' own spread: a difference above it counts less the larger it is
MAX_STEP = 0.2  # a step that changes a scale by more has lost its way

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Map:
    """(x, y) of a fixed picture -> (x, y) of a moving one, each in px from its middle."""

    linear: NDArray[np.float64]  # [2, 2]
    shift: NDArray[np.float64]  # [2], px of the moving picture

    def resized(self, fixed: float, moving: float) -> "Map":
        """The same map between pictures enlarged by these factors."""
        return Map(self.linear * (moving / fixed), self.shift * moving)

    def of(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """[..., 2] -> [..., 2]."""
        return points @ self.linear.T + self.shift


def centered_grid(height: int, width: int) -> NDArray[np.float64]:
    """Pixel centres [H, W, 2] about the middle, x and y."""
    x, y = np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2
    return np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1)


def sampled(moving: Floats, places: NDArray[np.float64]) -> tuple[Floats, NDArray[np.bool_]]:
    """Values between pixels at `places` [..., 2], px about the middle, and which of the places lie inside."""
    height, width = moving.shape
    x, y = places[..., 0] + (width / 2 - 0.5), places[..., 1] + (height / 2 - 0.5)
    inside = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = np.minimum(x.astype(np.int64), max(width - 2, 0)), np.minimum(y.astype(np.int64), max(height - 2, 0))
    far, low = (x - left).astype(np.float32), (y - top).astype(np.float32)
    first = top * width + left
    flat = moving.ravel()
    upper = flat[first] * (1 - far) + flat[first + 1] * far
    lower = flat[first + width] * (1 - far) + flat[first + width + 1] * far
    return upper * (1 - low) + lower * low, inside


def _mean_around(values: NDArray, radius: int) -> NDArray[np.float64]:
    """Mean of the square of 2 radius + 1 px around each pixel, edges repeated."""
    for _ in range(2):
        wide = np.concatenate([values[:1]] * (radius + 1) + [values] + [values[-1:]] * radius).cumsum(axis=0, dtype=np.float64)
        values = ((wide[2 * radius + 1 :] - wide[: -2 * radius - 1]) / (2 * radius + 1)).T
    return values


def details(grey: Floats, radius: int) -> Floats:
    """The picture less its surroundings, the mean of a square of 2 radius + 1 px twice over; an even slope leaves nothing."""
    return (grey - _mean_around(_mean_around(grey, radius), radius)).astype(np.float32)


def relief(grey: Floats) -> Floats:
    """Details in units of those around them, so that neither light nor one strong edge decides what two pictures share."""
    rest = details(grey, 4)
    return (rest / (_mean_around(abs(rest), 6) + FAINT)).astype(np.float32)


def correlation(first: Floats, second: Floats, inside: NDArray[np.bool_]) -> float:
    """Of the values inside, -1..1; 0 where one of them is even or there are too few."""
    if inside.sum() < SMALLEST_SIDE_PX:
        return 0.0
    a, b = first[inside], second[inside]
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size > 0 else 0.0


def _step(fixed: Floats, warped: Floats, inside: NDArray[np.bool_], grid: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The affine change [2, 3] of the fixed picture's places that brings the warped picture nearer; None without a hold."""
    spread_fixed, spread_warped = float(fixed[inside].std()), float(warped[inside].std())
    if spread_fixed < 1e-3 or spread_warped < 1e-3:
        return None
    fixed, warped = fixed / spread_fixed, warped / spread_warped
    down, right = np.gradient((fixed + warped) / 2)
    rest = (fixed - warped)[inside].astype(np.float64)
    x, y = grid[inside, 0], grid[inside, 1]
    slopes = np.stack([along * part for along in (right[inside], down[inside]) for part in (x, y, 1.0)], axis=1)
    weight = 1 / (1 + (rest / NOISE) ** 2)  # what only one of them shows, an overlay say, pulls little
    normal = slopes.T @ (slopes * weight[:, None])
    normal[np.diag_indices(6)] *= 1 + 1e-3
    try:
        return np.linalg.solve(normal, slopes.T @ (weight * rest)).reshape(2, 3)
    except np.linalg.LinAlgError:
        return None


def refine(fixed: Floats, moving: Floats, start: Map) -> Map:
    """Gauss-Newton on the reliefs of two pictures, at their own size. Returns `start` where there is nothing to hold on to."""
    grid, current = centered_grid(*fixed.shape), start
    for _ in range(ITERATIONS):
        warped, inside = sampled(moving, current.of(grid))
        if inside.sum() < SMALLEST_SIDE_PX**2 / 2:
            return start
        change = _step(fixed, warped, inside, grid)
        if change is None or abs(change[:, :2]).max() > MAX_STEP:
            return current
        linear, shift = np.eye(2) + change[:, :2], change[:, 2]
        current = Map(current.linear @ linear, current.linear @ shift + current.shift)
        if abs(shift).max() + abs(change[:, :2]).max() * max(fixed.shape) / 2 < 0.02:
            break
    return current


class Sizes:
    """A picture at whatever sizes it is asked for, each made once."""

    def __init__(self, grey: Image.Image) -> None:
        self.grey, self.size = grey, grey.size
        self._plain: dict[tuple[int, int], Floats] = {}
        self._relief: dict[tuple[int, int], Floats] = {}

    def plain(self, factor: float) -> Floats:
        """At `factor` of its size, float32 [H, W], in whole pixels."""
        width, height = (max(round(side * factor), 2) for side in self.size)
        if (width, height) not in self._plain:
            resized = self.grey.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
            self._plain[width, height] = np.asarray(resized, dtype=np.float32)
        return self._plain[width, height]

    def relief(self, factor: float) -> Floats:
        """The relief of the picture at that size."""
        plain = self.plain(factor)
        if plain.shape not in self._relief:
            self._relief[plain.shape] = relief(plain)
        return self._relief[plain.shape]
