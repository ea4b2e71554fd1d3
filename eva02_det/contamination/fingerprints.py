"""Perceptual fingerprints: bits that survive re-encoding, resizing and changes of light, of a whole picture and of regions in it.

A fingerprint is the signs of the 64 lowest frequencies (DCT-II) of a square of grey values, its mean left out. A picture is
asked for, and indexed, by its frames (the whole; the whole less an even margin; the quarters of a mosaic) and by its regions.
Frames are indexed in all eight poses. A region is first laid in the one pose in which it is brighter to one side than to another;
where that is a close call, an evaluation image is indexed with both.

A row is BYTES long: 8 of the fingerprint that the search compares; 8 more of higher frequencies (frames), or the place (regions);
and one that says which. All decisions are on integers, so that every machine makes the same rows of the same pixels.

Axes: F frames, R regions, S samples along a side, K frequencies along a side, M rows.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eva02_det.contamination.poses import POSES, Pose
from eva02_det.contamination.regions import SAMPLES, Regions, find_regions, pyramid, working_image

BITS = 64  # compared by the search
HASH_BYTES = BITS // 8
BYTES = 17
MAX_BITS = 8  # of 64 that may differ
MAX_FINE_BITS = 18  # of the 64 further ones of frames, whose neighbours differ in 32 on average
CORPUS_REGIONS, EVALUATION_REGIONS = 40, 72
CLOSE_CALL = 0.02  # of the sum of a region's frequencies: a difference below it may go the other way in a copy
MIN_WAVE = 0.15  # grey values: the least amplitude of a frequency that noise does not turn
MIN_WAVES = 24  # of 64 that must reach it; a square with fewer is plain, and resembles all other plain ones
MARGIN_SPREAD = 24  # grey values within which a line of a margin stays
MIN_TRIMMED = 0.3  # of a side that must be left
SMALL_PX = 200  # shorter side that a picture is decoded to at least, where it is decoded for fingerprints alone

Bytes = NDArray[np.uint8]
Box = tuple[float, float, float, float]

_FRAME = 8  # in the last byte, beside the number of the pose
_K = 16
_TABLE = np.round(np.cos(np.pi / SAMPLES * np.arange(_K)[:, None] * (np.arange(SAMPLES) + 0.5)) * 1024)  # [K, S], whole numbers
_ORDER = np.add.outer(np.arange(_K), np.arange(_K))
COARSE = (_ORDER >= 1) & (_ORDER <= 10)
COARSE[5, 5] = False  # 65 frequencies less the one of the middle: 64, and every pose maps them to themselves
FINE = (_ORDER >= 11) & (_ORDER <= 15)
FINE[[15, 14, 13, 2, 1, 0], [0, 1, 2, 13, 14, 15]] = False  # 64 more


@dataclass(frozen=True)
class Places:
    """Where the regions of M rows lie."""

    center: NDArray[np.float64]  # [M, 2], x and y, px of a picture of 160 x 160 px in area
    side: NDArray[np.float64]  # [M], px
    pose: NDArray[np.int64]  # [M], number of the pose in which the region was read
    framed: NDArray[np.bool_]  # [M], a frame, which has no place


def grey_image(image: Bytes) -> Image.Image:
    """[H, W, 3] or [H, W] uint8 -> brightness."""
    return Image.fromarray(image) if image.ndim == 2 else Image.fromarray(image).convert("L")


def small_image(data: bytes) -> Bytes:
    """Brightness [H, W] of an encoded picture; a JPEG is decoded at a fraction of its size, which fingerprints do not notice."""
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        scale = SMALL_PX / max(min(width, height), 1)
        image.draft("L", (round(width * scale), round(height * scale)))
        return np.asarray(image.convert("L"))


def _frequencies(squares: NDArray[Any], unit: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Squares [M, S, S] in 1/unit grey values -> DCT-II [M, K, K], whole numbers, and which squares [M] are not plain."""
    cosines = _TABLE @ squares.astype(np.float64) @ _TABLE.T  # sums below 2 ** 53: exact in any order
    least = MIN_WAVE * unit * 2**20 * SAMPLES**2 / 4
    return cosines, (abs(cosines[:, COARSE]) >= least).sum(axis=1) >= MIN_WAVES


def _hash(cosines: NDArray[np.float64], chosen: NDArray[np.bool_] = COARSE) -> Bytes:
    """Signs of the chosen frequencies, [M, K, K] -> [M, 8]."""
    return np.packbits(cosines[:, chosen] > 0, axis=1)


def _margin(lines: Bytes) -> int:
    """How many of the first lines [H, W] are even."""
    uneven = np.ptp(lines, axis=1) > MARGIN_SPREAD
    return int(np.argmax(uneven)) if uneven.any() else len(lines)


def trimmed(grey: Bytes) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a picture [H, W] less its even margins; all of it where little would be left."""
    height, width = grey.shape
    top, bottom = _margin(grey), height - _margin(grey[::-1])
    if bottom - top < MIN_TRIMMED * height:
        return 0, 0, width, height
    columns = grey[top:bottom].T
    left, right = _margin(columns), width - _margin(columns[::-1])
    if right - left < MIN_TRIMMED * width:
        return 0, 0, width, height
    # the line beside a margin is a blend of both
    return left + (left > 0), top + (top > 0), right - (right < width), bottom - (bottom < height)


def frame_boxes(first: Image.Image, quarters: bool) -> list[Box]:
    """Left, top, right, bottom of the whole, of what even margins leave, and if asked for of the quarters."""
    width, height = first.size
    boxes: list[Box] = [(0, 0, width, height)]
    inner = trimmed(np.asarray(first))
    if inner != boxes[0]:
        boxes.append(inner)
    if quarters:
        x, y = width / 2, height / 2
        boxes += [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    return boxes


def frame_rows(first: Image.Image, boxes: list[Box], poses: tuple[Pose, ...], plain: bool = False) -> Bytes:
    """Rows of frames of a working image, [M, BYTES], pose by pose; plain ones only if asked for."""
    size = (SAMPLES, SAMPLES)
    squares = [np.asarray(first.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=1.5)) for box in boxes]
    cosines, lively = _frequencies(np.stack(squares), 1)
    rows = []
    for pose in poses:
        posed = pose.of_frequencies(cosines if plain else cosines[lively])
        kind = np.full((len(posed), 1), pose.number | _FRAME, dtype=np.uint8)
        rows.append(np.hstack([_hash(posed), _hash(posed, FINE), kind]))
    return np.concatenate(rows)


def _region_rows(regions: Regions, close_call: float) -> Bytes:
    """Rows of the regions, each in the pose that has it brighter to the left, then to the top, and more so to the left."""
    cosines, lively = _frequencies(regions.samples, 256)
    cosines, center, side = cosines[lively], regions.center[lively], regions.side[lively]
    place = np.floor(np.stack([*(center.T * 64), side * 64, 0 * side], axis=1)).astype(">u2").view(np.uint8)
    slack = -close_call * abs(cosines[:, COARSE]).sum(axis=1)
    rows, number = [], []
    for pose in POSES:
        posed = pose.of_frequencies(cosines)
        left, up = posed[:, 0, 1], posed[:, 1, 0]
        chosen = np.flatnonzero((left >= slack) & (up >= slack) & (left - up >= slack))
        kind = np.full((len(chosen), 1), pose.number, dtype=np.uint8)
        rows.append(np.hstack([_hash(posed[chosen]), place[chosen], kind]))
        number.append(chosen)
    return np.concatenate(rows)[np.argsort(np.concatenate(number), kind="stable")]


def region_rows(first: Image.Image, most: int = EVALUATION_REGIONS, close_call: float = CLOSE_CALL) -> Bytes:
    """Rows of the regions of a working image alone, [M, BYTES]."""
    return _region_rows(find_regions(pyramid(first), most), close_call)


def corpus_rows(image: Bytes) -> Bytes:
    """What a corpus image [H, W, 3] or [H, W] is asked with: uint8 [M, BYTES]; none for a plain picture."""
    first = working_image(grey_image(image))
    return np.concatenate([frame_rows(first, frame_boxes(first, True), POSES[:1]), region_rows(first, CORPUS_REGIONS, 0.0)])


def evaluation_rows(image: Bytes) -> tuple[Bytes, list[Pose]]:
    """What an evaluation image [H, W, 3] or [H, W] is indexed with: uint8 [M, BYTES], and the pose of each row."""
    first = working_image(grey_image(image))
    rows = np.concatenate([frame_rows(first, frame_boxes(first, False), POSES), region_rows(first)])
    return rows, [POSES[kind & ~_FRAME] for kind in rows[:, -1].tolist()]


def hashes(rows: Bytes) -> Bytes:
    """[M, BYTES] -> the part that is searched, [M, HASH_BYTES]."""
    return rows[:, :HASH_BYTES]


def fine_hashes(rows: Bytes) -> Bytes:
    """[M, BYTES] -> the further frequencies of frames, [M, HASH_BYTES]."""
    return rows[:, HASH_BYTES : 2 * HASH_BYTES]


def places(rows: Bytes) -> Places:
    """Where the regions among M rows lie."""
    numbers = np.ascontiguousarray(rows[:, HASH_BYTES : 2 * HASH_BYTES]).view(">u2") / 64
    kind = rows[:, -1].astype(np.int64)
    return Places(numbers[:, :2], numbers[:, 2], kind & ~_FRAME, kind >= _FRAME)
