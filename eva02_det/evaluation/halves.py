"""Two fixed halves of a validation set: one to choose settings on, one to report, now that no server scores a test set."""

import hashlib
from collections.abc import Iterable

from eva02_det.evaluation.predictions import ImageId

HALVES = ("a", "b")


def half(image_ids: Iterable[ImageId], which: str) -> list[ImageId]:
    """The images of half "a" or "b", in the order of their ids.

    Images are ordered by the SHA-256 of their id in decimal; the first half of them, rounded up, is "a". It depends on the
    ids alone: val2017 falls into the same 2500 + 2500 images everywhere.
    """
    known = sorted(set(image_ids), key=str)
    shuffled = sorted(known, key=_digest)
    middle = (len(shuffled) + 1) // 2
    return sorted(shuffled[:middle] if which == HALVES[0] else shuffled[middle:])  # type: ignore[type-var]


def _digest(image_id: ImageId) -> str:
    return hashlib.sha256(str(image_id).encode()).hexdigest()
