"""Equal files and equal pictures: digests of bytes and of decoded pixels."""

import hashlib
from collections import defaultdict
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from eva02_det.contamination.images import Pixels

SIZE = 16  # bytes of a digest: of 10^10 images no two share one by chance
Digests: TypeAlias = NDArray[np.uint8]  # [N, SIZE]


def bytes_digest(content: bytes) -> bytes:
    """Of an encoded image."""
    return hashlib.blake2b(content, digest_size=SIZE).digest()


def pixels_digest(pixels: Pixels) -> bytes:
    """Of the decoded picture and its shape: the same for a file stored anew without loss, or with other metadata."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=SIZE)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


class DigestIndex:
    """Which of N images have a digest. Images without one, of zeros, are not found."""

    def __init__(self, digests: Digests) -> None:
        self._images: dict[bytes, list[int]] = defaultdict(list)
        for number, digest in enumerate(digests):
            if digest.any():
                self._images[digest.tobytes()].append(number)

    def find(self, digest: bytes) -> list[int]:
        """Numbers of the images that have it."""
        return self._images.get(digest, [])
