"""Whether two pictures show the same pixels: lays the corpus image over the evaluation image and compares square by square.

Regions that look alike, and the frames, propose how the one lies over the other; the best proposals are refined on the pixels;
what both show is then compared in small squares, each by correlation, so that changes of light, text or a border over a part of
the picture, crops and frames do not hide a copy, while another photograph of the same scene or texture does not agree in detail.

Axes: H, W rows and columns, P proposals, M rows of fingerprints, B squares.
"""

from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eva02_det.contamination.fingerprints import Box, Bytes, frame_boxes, frame_rows, grey_image, hashes, places, region_rows
from eva02_det.contamination.poses import POSES, Pose
from eva02_det.contamination.regions import AREA_PX, working_image
from eva02_det.contamination.warp import Floats, Map, Sizes, centered_grid, correlation, details, refine, sampled

MAX_REGION_BITS = 12  # of 64 between regions that propose a placement
MAX_FRAME_BITS = 24  # and between frames that do: a crop of a tenth turns about 14
MAX_PROPOSALS = 16  # of either kind
REFINED = 4  # proposals that are refined, the best first
CERTAIN, HOPELESS = 0.8, 0.1  # correlations at the middle size: no other is tried; none is worth a closer look
COARSE_AREA_PX, MIDDLE_AREA_PX = 40 * 40, 80 * 80
LEAST_AREA_PX = 48 * 48  # that a common part is compared at, whatever it has to be enlarged by
SQUARE_PX = 8
MIN_DETAIL = 3.0  # grey values by which the pixels of a square must differ from their surroundings; less is plain, or noise
SAME = 0.7  # correlation of two squares that show the same
# At least so many squares must agree, and so large a share. Two photographs agree in up to 37 and a tenth, two drawings that
# share a straight outline in 40 and three quarters; a plain photograph under a caption in 76 and four tenths, a crop in all.
ENOUGH = ((60, 0.3), (30, 0.9))
MAX_STRETCH = 2.0  # of one axis against the other


@dataclass(frozen=True)
class Alignment:
    """How a corpus image lies over an evaluation image: the pose and the window of the evaluation image that it shows."""

    similarity: float  # 0..1, share of the squares with detail that agree
    coverage: float  # 0..1, share of the evaluation image that the corpus image shows
    flip: bool  # the evaluation image flipped left to right, if so,
    quarter_turns: int  # then turned counter-clockwise by so many quarters, lies as the corpus image does
    window: tuple[float, float, float, float]  # x0, y0, x1, y1 in 0..1


def confirm(evaluation: Bytes, corpus: Bytes, pose: Pose | None = None) -> Alignment | None:
    """The alignment of two pictures, uint8 [H, W, 3] or [H, W], or None where they do not show the same pixels.

    Args:
        pose: propose no other.
    """
    fixed, moving = grey_image(evaluation), grey_image(corpus)
    small = working_image(fixed), working_image(moving)
    first, second = map(Sizes, small)
    proposals = [p for p in _proposals(*small) if pose is None or _pose_of(p.linear) == pose]
    best, best_score = None, 0.0
    for proposal in _ranked(first, second, proposals)[:REFINED]:
        for candidate in (proposal, _refined(first, second, proposal, (COARSE_AREA_PX, MIDDLE_AREA_PX))):
            score = _agreement(first, second, candidate, MIDDLE_AREA_PX)
            if score > best_score:
                best, best_score = candidate, score
        if best_score > CERTAIN:
            break
    if best is None or best_score < HOPELESS or not _plausible(best):
        return None
    return _judged(Sizes(fixed), Sizes(moving), best.resized(_factor(fixed, small[0]), _factor(moving, small[1])))


def _factor(large: Image.Image, small: Image.Image) -> float:
    return float(np.sqrt(large.width * large.height / (small.width * small.height)))


def _pose_of(linear: NDArray[np.float64]) -> Pose:
    """The pose nearest to a linear map."""
    return max(POSES, key=lambda pose: float((pose.matrix() * linear).sum()))


def _proposals(first: Image.Image, second: Image.Image) -> list[Map]:
    return _from_frames(first, second) + _from_regions(first, second)


def _from_frames(first: Image.Image, second: Image.Image) -> list[Map]:
    """Frames of the moving picture laid over frames of the fixed one, in the poses in which they look most alike."""
    boxes, onto = frame_boxes(first, False), frame_boxes(second, True)
    two = hashes(frame_rows(second, onto, POSES[:1], plain=True))
    one = hashes(frame_rows(first, boxes, POSES, plain=True)).reshape(len(POSES), len(boxes), -1)
    unlike = np.unpackbits(two[:, None, None] ^ one, axis=3).sum(axis=3)  # [frames of the moving picture, poses, frames]
    found = [(int(unlike[m, p, n]), _laid(first, boxes[n], second, onto[m], POSES[p])) for m, p, n in np.ndindex(unlike.shape)]
    found = sorted((pair for pair in found if pair[0] <= MAX_FRAME_BITS), key=itemgetter(0))
    return [placed for _, placed in found[:MAX_PROPOSALS]]


def _laid(first: Image.Image, box: Box, second: Image.Image, onto: Box, pose: Pose) -> Map:
    """The map that takes a frame of one picture to a frame of the other in a pose."""
    sizes = [np.array([x1 - x0, y1 - y0], dtype=np.float64) for x0, y0, x1, y1 in (box, onto)]
    linear = np.diag(sizes[1]) @ pose.matrix() @ np.diag(1 / sizes[0])
    return Map(linear, _middle(onto, second) - linear @ _middle(box, first))


def _middle(box: Box, image: Image.Image) -> NDArray[np.float64]:
    return np.array([(box[0] + box[2] - image.width) / 2, (box[1] + box[3] - image.height) / 2])


def _from_regions(first: Image.Image, second: Image.Image) -> list[Map]:
    """Placements that pairs of like regions propose, those first that others agree with."""
    one, two = region_rows(first), region_rows(second)
    if not len(one) or not len(two):
        return []
    unlike = (np.unpackbits(hashes(two), axis=1)[:, None] != np.unpackbits(hashes(one), axis=1)[None]).sum(axis=2)
    asked, found = np.nonzero(unlike <= MAX_REGION_BITS)
    order = np.argsort(unlike[asked, found], kind="stable")[:200]
    here, there = places(one[found[order]]), places(two[asked[order]])
    matrices = np.stack([pose.matrix() for pose in POSES])
    relation = np.swapaxes(matrices[there.pose], 1, 2) @ matrices[here.pose]
    linear = relation * (there.side / here.side)[:, None, None]
    start = here.center - np.array(first.size) / 2
    end = there.center - np.array(second.size) / 2
    shift = end - np.einsum("rij,rj->ri", linear, start)
    miss = np.abs(np.einsum("rij,sj->rsi", linear, start) + shift[:, None] - end[None]).max(axis=2)  # [R, R]
    alike = (relation[:, None] == relation[None]).all(axis=(2, 3))
    votes = ((miss < 0.2 * there.side) & alike).sum(axis=1)
    return [Map(linear[r], shift[r]) for r in np.argsort(-votes, kind="stable")[:MAX_PROPOSALS]]


def _factors(first: Sizes, placed: Map, area: float) -> tuple[float, float]:
    """By how much to resize the fixed picture to have `area` px, and the moving one to show things as large."""
    shrink = float(np.sqrt(area / (first.size[0] * first.size[1])))
    return shrink, shrink / float(np.sqrt(abs(np.linalg.det(placed.linear))))


def _agreement(first: Sizes, second: Sizes, placed: Map, area: float) -> float:
    """Correlation of the reliefs where the pictures overlap, less for a small overlap."""
    factors = _factors(first, placed, area)
    fixed, moving = first.relief(factors[0]), second.relief(factors[1])
    warped, inside = sampled(moving, placed.resized(*factors).of(centered_grid(*fixed.shape)))
    return correlation(fixed, warped, inside) * float(np.sqrt(min(inside.mean() * 4, 1.0)))


def _ranked(first: Sizes, second: Sizes, proposals: list[Map]) -> list[Map]:
    """The best proposal first, without those that say the same as a better one."""
    usable = [p for p in proposals if _plausible(p)]
    scores = [_agreement(first, second, p, COARSE_AREA_PX) for p in usable]
    corners = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]]) / 2 * np.array(first.size)
    ranked: list[Map] = []
    for n in np.argsort(-np.array(scores), kind="stable"):
        ends = usable[n].of(corners)
        if all(abs(ends - other.of(corners)).max() > 0.05 * max(first.size) for other in ranked):
            ranked.append(usable[n])
    return ranked


def _plausible(placed: Map) -> bool:
    stretches = np.linalg.svd(placed.linear, compute_uv=False)
    return bool(stretches[1] > 0.1 and stretches[0] < 10 and stretches[0] < MAX_STRETCH * stretches[1])


def _refined(first: Sizes, second: Sizes, placed: Map, areas: tuple[float, ...]) -> Map:
    for area in areas:
        shrink, follow = _factors(first, placed, area)
        better = refine(first.relief(shrink), second.relief(follow), placed.resized(shrink, follow))
        placed = better.resized(1 / shrink, 1 / follow)
    return placed


def _overlap(first: Sizes, second: Sizes, placed: Map) -> tuple[float, tuple[float, float, float, float]]:
    """Share of the fixed picture that the moving one shows, and the window around it."""
    steps = 64
    grid = centered_grid(steps, steps)
    reached = placed.of(grid / steps * np.array(first.size))
    inside = np.all(abs(reached) <= np.array(second.size) / 2, axis=-1)
    if not inside.any():
        return 0.0, (0.0, 0.0, 0.0, 0.0)
    rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    edges = (cols[0], rows[0], cols[-1] + 1, rows[-1] + 1)
    x0, y0, x1, y1 = (float(edge / steps) for edge in edges)
    return float(inside.mean()), (x0, y0, x1, y1)


def _judged(first: Sizes, second: Sizes, placed: Map) -> Alignment | None:
    """Compares in full: at a size at which the common part has AREA_PX, or as many pixels as both pictures really have of it."""
    share, _ = _overlap(first, second, placed)
    if share == 0:
        return None
    common = share * first.size[0] * first.size[1]
    available = min(common, common * abs(np.linalg.det(placed.linear)))
    area = max(min(AREA_PX, available), LEAST_AREA_PX) / share
    placed = _refined(first, second, placed, (area,))
    if not _plausible(placed):
        return None
    share, window = _overlap(first, second, placed)
    factors = _factors(first, placed, area)
    agree, compared = _squares(first.plain(factors[0]), second.plain(factors[1]), placed.resized(*factors))
    similarity = agree / max(compared, 1)
    if not any(agree >= squares and similarity >= part for squares, part in ENOUGH):
        return None
    pose = _pose_of(placed.linear)
    return Alignment(round(similarity, 4), round(share, 4), pose.flip, pose.quarter_turns, window)


def _squares(fixed: Floats, moving: Floats, placed: Map) -> tuple[int, int]:
    """How many squares agree, of how many that lie inside both pictures and are not plain in both."""
    warped, inside = sampled(moving, placed.of(centered_grid(*fixed.shape)))

    def squares(values: NDArray) -> NDArray:
        height, width = (side // SQUARE_PX * SQUARE_PX for side in values.shape)
        cut = values[:height, :width].reshape(height // SQUARE_PX, SQUARE_PX, width // SQUARE_PX, SQUARE_PX)
        return np.swapaxes(cut, 1, 2).reshape(-1, SQUARE_PX**2)

    whole = squares(inside).all(axis=1)
    a, b = (squares(details(values, SQUARE_PX // 2))[whole] for values in (fixed, np.where(inside, warped, fixed)))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    spread_a, spread_b = a.std(axis=1), b.std(axis=1)
    lively = np.maximum(spread_a, spread_b) >= MIN_DETAIL
    alike = (a * b).mean(axis=1) >= SAME * np.maximum(spread_a * spread_b, 1e-6)
    return int((lively & alike).sum()), int(lively.sum())
