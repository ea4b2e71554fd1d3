"""Whether a candidate is a copy: compared by bytes, by decoded pixels and by aligned pixels, and said in words."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from eva02_det.contamination.alignment import Alignment, confirm
from eva02_det.contamination.evaluation_images import EvaluationImage
from eva02_det.contamination.images import Pixels, Unreadable, decode
from eva02_det.contamination.joins import FILE_NAME, ID, URL
from eva02_det.contamination.settings import ALIGN, BYTES, PIXELS, STAGES, Settings
from eva02_det.utils.sources import remote

KEPT = 16  # evaluation images that stay decoded
DIGITS = 4
_NAMES = {FILE_NAME: "file names", URL: "web addresses", ID: "ids"}


@dataclass
class Candidate:
    """An evaluation image that a corpus image may show. bits, similarity: of the closest fingerprint and embedding."""

    found_by: set[str] = field(default_factory=set)
    bits: int | None = None
    embedding: float | None = None

    @property
    def stages(self) -> list[str]:
        """By which it was found, in order of cost."""
        return [stage for stage in STAGES if stage in self.found_by]


@dataclass(frozen=True)
class Verdict:
    """confirmed: it is a copy, and how it lies. refuted: the pixels were compared and are others.

    damage: why the corpus image could not be decoded, where that came out only now.
    """

    confirmed: bool
    reason: str
    alignment: Alignment | None = None
    refuted: bool = False
    damage: str | None = None


_WHOLE = Alignment(similarity=1.0, coverage=1.0, flip=False, quarter_turns=0, window=(0.0, 0.0, 1.0, 1.0))


class Verifier:
    """Compares corpus images with evaluation images."""

    def __init__(self, images: Sequence[EvaluationImage], settings: Settings) -> None:
        self.images, self.settings = images, settings
        self._evaluation = lru_cache(KEPT)(self._load)

    def judge(self, candidate: Candidate, number: int, content: bytes) -> Verdict:
        """Of evaluation image `number` and the encoded corpus image."""
        try:
            original, pixels = self._evaluation(number)
        except Unreadable as error:
            return unseen(candidate, f"the evaluation image is unreadable ({error})")
        if content == original:
            return Verdict(True, "the files are equal, byte by byte", _WHOLE)
        if not self.settings.has(PIXELS, ALIGN):
            return unseen(candidate, "the files differ, and pixels were not compared: the stages pixels and align are off")
        try:
            copy = decode(content)
        except Unreadable as error:
            return replace(unseen(candidate, f"the corpus image is unreadable ({error})"), damage=str(error))
        if np.array_equal(copy, pixels):
            return Verdict(True, "the decoded pixels are equal", _WHOLE)
        if not self.settings.has(ALIGN):
            return unseen(candidate, "the decoded pixels are not equal, and were not aligned: the stage align is off")
        found = confirm(pixels, copy)
        if found is None:
            what = f"the {joined} agree, but " if (joined := _joined_by(candidate)) else ""
            return Verdict(False, f"{what}no way to lay the images over each other makes their pixels agree", refuted=True)
        return Verdict(True, _agreement(found), found)

    def _load(self, number: int) -> tuple[bytes, Pixels]:
        try:
            content = remote.read(self.images[number].path)
        except OSError as error:
            raise Unreadable(remote.reason(error)) from error
        return content, decode(content)


def unseen(candidate: Candidate, why: str) -> Verdict:
    """What names and digests alone say: a shared id or an equal digest is proof, an equal name or address is none."""
    if {BYTES, PIXELS} & candidate.found_by:
        return Verdict(True, f"their digests are equal; {why}", _WHOLE)
    if ID in candidate.found_by:
        return Verdict(True, f"both data sets take their ids from the same images; {why}")
    if joined := _joined_by(candidate):
        return Verdict(False, f"only the {joined} agree, which is no proof; {why}")
    return Verdict(False, f"found by {' and '.join(candidate.stages)} alone; {why}")


def _joined_by(candidate: Candidate) -> str:
    return " and ".join(_NAMES[stage] for stage in candidate.stages if stage in _NAMES)


def _agreement(found: Alignment) -> str:
    turned = [f"turned by {90 * found.quarter_turns} degrees"] if found.quarter_turns else []
    how = " and ".join([*(["mirrored"] if found.flip else []), *turned])
    return f"the pixels agree where they lie over each other, over {found.coverage:.0%} of the image" + (
        f", {how}" if how else ""
    )
