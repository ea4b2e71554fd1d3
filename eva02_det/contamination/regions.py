"""Square regions of a picture that are found again in a cropped, framed or shrunk copy of it.

A region lies around a blob, lighter or darker than its surroundings, and is as large as the blob says: both follow the picture's
content, not its edges. All arithmetic that reaches a decision is on integers, or is exactly rounded, so that every machine finds
the same regions.

Axes: H, W rows and columns of a level, L levels, R regions, S samples along a side of a region.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

AREA_PX = 160 * 160  # of the first level; the others shrink by STEP each
STEP = 2 ** (1 / 3)
SIDE_PX = 20  # of a region on its own level
SAMPLES = 24
MIN_RESPONSE = 64  # a blob that differs from its surroundings by less than one grey value is noise; in 1/64
MAX_EDGE = 12.0  # ratio of the curvatures of a blob; above it, it is an edge, whose place along the edge means nothing
FINE = 16  # steps of a pixel in which samples are placed

Grey = NDArray[np.uint8]
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Regions:
    """R regions and what they look like."""

    center: NDArray[np.float64]  # [R, 2], x and y, px of the first level
    side: NDArray[np.float64]  # [R], px of the first level
    strength: NDArray[np.int64]  # [R]
    samples: NDArray[np.int64]  # [R, S, S], grey values times FINE ** 2

    def __len__(self) -> int:
        return len(self.side)


def working_image(grey: Image.Image) -> Image.Image:
    """The picture at AREA_PX, its sides in proportion."""
    width, height = grey.size
    scale = (AREA_PX / (width * height)) ** 0.5
    size = max(round(width * scale), 2 * SIDE_PX), max(round(height * scale), 2 * SIDE_PX)
    return grey.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def pyramid(first: Image.Image) -> list[Grey]:
    """Levels of uint8 [H, W], each smaller by STEP, down to the size of a region."""
    width, height = first.size
    levels = [np.asarray(first)]
    while True:
        scale = STEP ** -len(levels)
        size = round(width * scale), round(height * scale)
        if min(size) < SIDE_PX + 2:
            return levels
        levels.append(np.asarray(first.resize(size, Image.Resampling.BICUBIC)))


def _beyond(image: Ints, rows: int) -> Ints:
    """The picture with its first and last row repeated; np.pad takes longer for it than all sums that follow."""
    return np.concatenate([image[:1]] * rows + [image] + [image[-1:]] * rows)


def _smooth(image: Ints, gap: int = 1) -> Ints:
    """Binomial 1-4-6-4-1 along both axes, its taps `gap` px apart (variance: gap squared), edges repeated."""
    for _ in range(2):
        wide = _beyond(image, 2 * gap)
        n = len(image)
        taps = [wide[k * gap : k * gap + n] for k in range(5)]
        image = (taps[0] + taps[4] + 4 * (taps[1] + taps[3]) + 6 * taps[2]).T
    return np.ascontiguousarray((image + 128) >> 8)


def _responses(level: Grey) -> Ints:
    """How much a place differs from its surroundings, in 1/64 grey value: blurs of 1 and of sqrt(5) px, subtracted."""
    near = _smooth(level.astype(np.int32) << 6)
    return near - _smooth(near, 2)


def _largest_near(values: Ints) -> Ints:
    """Largest of the 3 x 3 around each place."""
    for _ in range(2):
        wide = _beyond(values, 1)
        values = np.maximum(np.maximum(wide[:-2], wide[1:-1]), wide[2:]).T
    return values


def _same_place(rows: NDArray[np.int64], cols: NDArray[np.int64], here: Ints, there: Ints) -> tuple[NDArray, NDArray]:
    """Row and column on another level of the same picture."""
    return (2 * rows + 1) * there.shape[0] // (2 * here.shape[0]), (2 * cols + 1) * there.shape[1] // (2 * here.shape[1])


def _offset(before: NDArray, at: NDArray, after: NDArray) -> NDArray[np.float64]:
    """Where between -0.5 and 0.5 the parabola through three values has its top."""
    bend = 2.0 * at - before - after
    return np.clip((after - before) / np.where(bend > 0, 2.0 * bend, np.inf), -0.5, 0.5)


def _found_on(number: int, responses: list[Ints], tops: list[Ints]) -> tuple[NDArray, ...]:
    """(level, row, column, shift of the level, strength) of the blobs on one level, each a float64 or int64 [R]."""
    here, size = responses[number], abs(responses[number])
    rows, cols = np.nonzero((size >= tops[number]) & (size >= MIN_RESPONSE))
    inside = (np.minimum(rows, here.shape[0] - 1 - rows) >= SIDE_PX // 2 - 1) & (
        np.minimum(cols, here.shape[1] - 1 - cols) >= SIDE_PX // 2 - 1
    )
    rows, cols = rows[inside], cols[inside]
    around = []
    for other in (number - 1, number + 1):
        if not 0 <= other < len(responses):
            around.append(np.zeros(len(rows), dtype=np.int64))
            continue
        place = _same_place(rows, cols, here, responses[other])
        highest = size[rows, cols] >= tops[other][place]
        around = [values[highest] for values in around]
        rows, cols = rows[highest], cols[highest]
        place = tuple(axis[highest] for axis in place)
        around.append(abs(responses[other][place]).astype(np.int64))
    at = size[rows, cols].astype(np.int64)
    sign = np.sign(here[rows, cols])

    def value(down: int, right: int) -> NDArray[np.int64]:
        return (sign * here[rows + down, cols + right]).astype(np.int64)

    y, x = _offset(value(-1, 0), at, value(1, 0)), _offset(value(0, -1), at, value(0, 1))
    vertical, horizontal = value(-1, 0) + value(1, 0) - 2 * at, value(0, -1) + value(0, 1) - 2 * at
    mixed = (value(1, 1) + value(-1, -1) - value(1, -1) - value(-1, 1)) / 4
    shape = vertical * horizontal - mixed * mixed
    round_enough = (shape > 0) & ((vertical + horizontal) ** 2.0 * MAX_EDGE < (MAX_EDGE + 1) ** 2 * shape)
    shift = _offset(around[0], at, around[1])
    return tuple(a[round_enough] for a in (np.full(len(at), number), rows + y, cols + x, shift, at))


def _sampled(level: Grey, center: NDArray[np.float64], side: NDArray[np.float64]) -> NDArray[np.int64]:
    """Regions of one level, centre [R, 2] and side [R] in its px, sampled between pixels: [R, S, S] times FINE ** 2."""
    steps = (np.arange(SAMPLES) + 0.5) / SAMPLES - 0.5
    parts = []
    for axis, length in ((1, level.shape[0]), (0, level.shape[1])):
        places = center[:, axis, None] - 0.5 + side[:, None] * steps
        fine = np.clip(np.floor(places * FINE + 0.5).astype(np.int64), 0, (length - 1) * FINE)
        parts.append((fine // FINE, np.minimum(fine // FINE + 1, length - 1), fine % FINE))
    (top, bottom, low), (left, right, far) = parts
    grey = level.astype(np.int64)

    def pick(row: NDArray, col: NDArray) -> NDArray:
        return grey[row[:, :, None], col[:, None, :]]

    low, far = low[:, :, None], far[:, None, :]
    upper = pick(top, left) * (FINE - far) + pick(top, right) * far
    lower = pick(bottom, left) * (FINE - far) + pick(bottom, right) * far
    return upper * (FINE - low) + lower * low


def find_regions(levels: list[Grey], most: int) -> Regions:
    """Up to `most` regions inside the picture, in turn from all levels: of each the most salient first.

    Without turns small regions would take all places, and those of letters or of a page's furniture before all others.
    """
    responses = [_responses(level) for level in levels]
    tops = [_largest_near(abs(response)) for response in responses]
    found = [_found_on(number, responses, tops) for number in range(len(levels))]
    number, row, col, shift, strength = (np.concatenate(parts) for parts in zip(*found))
    order = np.lexsort((col, row, -strength, number))
    turn = np.arange(len(order)) - np.searchsorted(number[order], number[order])
    order = order[np.argsort(turn, kind="stable")][:most]
    number, row, col, shift, strength = (part[order] for part in (number, row, col, shift, strength))
    side = SIDE_PX * STEP**shift  # px of the region's own level
    samples = np.empty((len(order), SAMPLES, SAMPLES), dtype=np.int64)
    scale = np.empty((len(order), 2))
    place = np.stack([col + 0.5, row + 0.5], axis=1)
    for level in np.unique(number):
        chosen = number == level
        samples[chosen] = _sampled(levels[level], place[chosen], side[chosen])
        scale[chosen] = [levels[0].shape[1] / levels[level].shape[1], levels[0].shape[0] / levels[level].shape[0]]
    return Regions(place * scale, side * np.sqrt(scale[:, 0] * scale[:, 1]), strength, samples)
