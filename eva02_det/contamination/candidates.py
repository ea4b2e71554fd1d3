"""Pairs of images that their fingerprints speak for: a frame that agrees finely, or regions that agree about one placement.

Axes: M rows, P pairs of images, R pairs of rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eva02_det.contamination.fingerprints import MAX_BITS, MAX_FINE_BITS, Places, fine_hashes, hashes, places
from eva02_det.contamination.poses import POSES
from eva02_det.contamination.search import FingerprintIndex, Matches, count_bits

IMAGES_AT_ONCE = 256  # corpus images whose matches are in memory together
MAX_SCALE = 1.25  # factor between what two regions say about the size of the copy
MAX_MISS = 0.25  # of a region's side: how far apart two regions may put the same point

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

_MATRICES = np.stack([pose.matrix() for pose in POSES])


@dataclass(frozen=True)
class Candidates:
    """P distinct pairs, ordered by corpus image, then by evaluation image; numbers as the caller gave them."""

    corpus: Ints  # [P]
    evaluation: Ints  # [P]
    bits: Ints  # [P], of the best pair of rows


class CandidateSearch:
    """The rows of all evaluation images, ready to be asked with those of corpus images.

    Args:
        rows: uint8 [M, BYTES], `evaluation_rows` of any number of images, one below the other.
        images: int64 [M], the number of each row's image.
    """

    def __init__(self, rows: Bytes, images: Ints, max_bits: int = MAX_BITS) -> None:
        framed = places(rows).framed
        self._frames, self._frame_images = rows[framed], images[framed]
        self._regions, self._region_images = rows[~framed], images[~framed]
        self._frame_index = FingerprintIndex(hashes(self._frames), max_bits)
        self._region_index = FingerprintIndex(hashes(self._regions), max_bits)

    def search(self, rows: Bytes, images: Ints) -> Candidates:
        """Candidates of corpus images: `corpus_rows` one below the other, and int64 [M], the number of each row's image."""
        numbers, which = np.unique(images, return_inverse=True)
        pairs = [(np.empty(0, dtype=np.int64),) * 3]
        for begin in range(0, len(numbers), IMAGES_AT_ONCE):
            chosen = (which >= begin) & (which < begin + IMAGES_AT_ONCE)
            pairs += self._pairs(rows[chosen], images[chosen])
        corpus, evaluation, bits = (np.concatenate(parts) for parts in zip(*pairs))
        order = np.lexsort((bits, evaluation, corpus))
        corpus, evaluation, bits = corpus[order], evaluation[order], bits[order]
        first = _first_of_pair(corpus, evaluation)
        return Candidates(corpus[first], evaluation[first], bits[first])

    def _pairs(self, rows: Bytes, images: Ints) -> list[tuple[Ints, Ints, Ints]]:
        framed = places(rows).framed
        return [self._by_frames(rows[framed], images[framed]), self._by_regions(rows[~framed], images[~framed])]

    def _by_frames(self, rows: Bytes, images: Ints) -> tuple[Ints, Ints, Ints]:
        found = self._frame_index.search(hashes(rows))
        fine = count_bits(fine_hashes(rows)[found.query], fine_hashes(self._frames)[found.row]) <= MAX_FINE_BITS
        return images[found.query[fine]], self._frame_images[found.row[fine]], found.bits[fine]

    def _by_regions(self, rows: Bytes, images: Ints) -> tuple[Ints, Ints, Ints]:
        found = self._region_index.search(hashes(rows))
        corpus, evaluation = images[found.query], self._region_images[found.row]
        order = np.lexsort((evaluation, corpus))
        found = Matches(found.query[order], found.row[order], found.bits[order])
        corpus, evaluation = corpus[order], evaluation[order]
        starts = np.flatnonzero(_first_of_pair(corpus, evaluation)).tolist()
        asked, indexed = places(rows[found.query]), places(self._regions[found.row])
        kept = [
            start
            for start, stop in zip(starts, [*starts[1:], len(corpus)])
            if stop - start > 1 and agreeing(_part(asked, start, stop), _part(indexed, start, stop))
        ]
        return corpus[kept], evaluation[kept], found.bits[kept]


def _first_of_pair(corpus: Ints, evaluation: Ints) -> NDArray[np.bool_]:
    """Which of R sorted pairs of images differ from the one before."""
    first = np.ones(len(corpus), dtype=bool)
    first[1:] = (np.diff(corpus) != 0) | (np.diff(evaluation) != 0)
    return first


def _part(places: Places, start: int, stop: int) -> Places:
    chosen = slice(start, stop)
    return Places(places.center[chosen], places.side[chosen], places.pose[chosen], places.framed[chosen])


def agreeing(corpus: Places, evaluation: Places) -> bool:
    """Whether two of R pairs of regions of two images, at different places, lay the one image over the other in the same way."""
    if len(corpus.side) > 64:  # so many do not agree by chance, and their number squared would take long
        return True
    # both regions look alike in the poses they were read in: undo the corpus image's after doing the evaluation image's
    relation = np.swapaxes(_MATRICES[corpus.pose], 1, 2) @ _MATRICES[evaluation.pose]
    scale = corpus.side / evaluation.side
    same = (relation[:, None] == relation[None]).all(axis=(2, 3))
    same &= np.maximum(scale[:, None] / scale, scale / scale[:, None]) < MAX_SCALE
    larger = np.maximum(corpus.side[:, None], corpus.side)
    apart = corpus.center[:, None] - corpus.center
    mean_scale = np.sqrt(scale[:, None] * scale)
    expected = np.einsum("rij,rsj->rsi", relation, evaluation.center[:, None] - evaluation.center) * mean_scale[..., None]
    same &= np.abs(apart - expected).max(axis=2) < MAX_MISS * larger
    # the same blob seen twice, on two levels or in two poses, is one witness
    distinct = np.abs(apart).max(axis=2) > 0.1 * larger
    return bool((same & distinct).any())
