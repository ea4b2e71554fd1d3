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
Ints64 = NDArray[np.int64]


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
    images = [first]
    while True:
        scale = STEP ** -len(images)
        size = round(width * scale), round(height * scale)
        if min(size) < SIDE_PX + 2:
            return [np.asarray(image) for image in images]
        # from the level twice as large, or the first: a quarter of the time of always taking the first
        images.append(images[max(len(images) - 3, 0)].resize(size, Image.Resampling.BICUBIC))


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


@dataclass(frozen=True)
class _Blobs:
    """Blobs of one level: their places, and their own and their neighbours' responses, positive at the blob."""

    row: Ints64  # [R]
    col: Ints64  # [R]
    around: Ints64  # [R, 3, 3]
    beside: Ints64  # [R, 2], the strongest at this place on the next larger and the next smaller level


def _found_on(number: int, responses: list[Ints], tops: list[Ints]) -> _Blobs:
    """The places of a level that differ more from their surroundings than the places around them and on the levels beside."""
    here, inset = responses[number], SIDE_PX // 2 - 1
    inner = abs(here[inset : here.shape[0] - inset, inset : here.shape[1] - inset])
    highest = tops[number][inset : here.shape[0] - inset, inset : here.shape[1] - inset]
    rows, cols = np.nonzero((inner >= highest) & (inner >= MIN_RESPONSE))
    rows, cols = rows + inset, cols + inset
    beside = np.zeros((len(rows), 2), dtype=np.int64)
    limit = np.zeros(len(rows), dtype=np.int64)
    for side, other in enumerate((number - 1, number + 1)):
        if 0 <= other < len(responses):
            place = _same_place(rows, cols, here, responses[other])
            beside[:, side] = abs(responses[other][place])
            limit = np.maximum(limit, tops[other][place])
    keep = abs(here[rows, cols]) >= limit
    rows, cols = rows[keep], cols[keep]
    step = np.arange(-1, 2)
    around = here[rows[:, None, None] + step[:, None], cols[:, None, None] + step].astype(np.int64)
    return _Blobs(rows, cols, around * np.sign(around[:, 1:2, 1:2]), beside[keep])


def _placed(blobs: list[_Blobs]) -> tuple[NDArray, ...]:
    """Of the blobs that are no edges: level, row, column and shift of the level, between pixels and levels, and strength; [R]."""
    level = np.repeat(np.arange(len(blobs)), [len(part.row) for part in blobs])
    around, beside = (np.concatenate([getattr(part, name) for part in blobs]) for name in ("around", "beside"))
    at = around[:, 1, 1]
    vertical, horizontal = around[:, 0, 1] + around[:, 2, 1] - 2 * at, around[:, 1, 0] + around[:, 1, 2] - 2 * at
    mixed = (around[:, 2, 2] + around[:, 0, 0] - around[:, 2, 0] - around[:, 0, 2]) / 4
    shape = vertical * horizontal - mixed * mixed
    blob = (shape > 0) & ((vertical + horizontal) ** 2.0 * MAX_EDGE < (MAX_EDGE + 1) ** 2 * shape)
    row = np.concatenate([part.row for part in blobs]) + _offset(around[:, 0, 1], at, around[:, 2, 1])
    col = np.concatenate([part.col for part in blobs]) + _offset(around[:, 1, 0], at, around[:, 1, 2])
    shift = _offset(beside[:, 0], at, beside[:, 1])
    return tuple(part[blob] for part in (level, row, col, shift, at))


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

    def pick(row: Ints64, col: Ints64) -> Ints64:
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
    number, row, col, shift, strength = _placed([_found_on(number, responses, tops) for number in range(len(levels))])
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
