"""What the evaluation images are recognised by: digests, fingerprints, embeddings; computed and kept in parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eva02_det.contamination.digests import SIZE, Digests, bytes_digest, pixels_digest
from eva02_det.contamination.evaluation_images import EvaluationImage
from eva02_det.contamination.fingerprints import BYTES, evaluation_rows
from eva02_det.contamination.images import Pixels, Unreadable, decode
from eva02_det.contamination.settings import EMBEDDING, FINGERPRINT, Settings
from eva02_det.utils.files import atomic_path
from eva02_det.utils.sources import remote

if TYPE_CHECKING:  # brings torch and faiss along
    from eva02_det.contamination.embeddings import Embedder

PART_IMAGES = 200  # computed before a part is written
_EMPTY = bytes(SIZE)
_SHIFTED = ("image", "vectors")


@dataclass(frozen=True)
class Part:
    """Facts of consecutive evaluation images, N of them; what a stage that is off would need is empty.

    sizes: [N, 2] height and width, 0 where the image is unreadable. image: [R] to which image a fingerprint belongs.
    vectors: [2 N, D], each image followed by its mirror image; zeros where it is unreadable. unreadable: [number, reason].
    """

    bytes: Digests
    pixels: Digests
    sizes: NDArray[np.int64]
    rows: NDArray[np.uint8]
    image: NDArray[np.int64]
    vectors: NDArray[np.float32]
    unreadable: NDArray[np.str_]

    def save(self, file: Path) -> None:
        """Write atomically."""
        with atomic_path(file) as path, path.open("wb") as stream:
            np.savez(stream, **vars(self))

    @classmethod
    def load(cls, file: Path) -> "Part":
        """Read what `save` wrote."""
        with np.load(file) as content:
            return cls(**{key: content[key] for key in content.files})

    @classmethod
    def joined(cls, parts: Sequence["Part"]) -> "Part":
        """One of several, in their order; vectors of a part without a readable image are zeros of the others' width."""
        counts = [0, *np.cumsum([len(part.bytes) for part in parts]).tolist()]
        width = max(part.vectors.shape[1] for part in parts)
        arrays = {key: np.concatenate([getattr(part, key) for part in parts]) for key in vars(parts[0]) if key not in _SHIFTED}
        return cls(
            **arrays,
            image=np.concatenate([part.image + count for part, count in zip(parts, counts)]),
            vectors=np.concatenate([np.pad(part.vectors, ((0, 0), (0, width - part.vectors.shape[1]))) for part in parts]),
        )


def make_part(images: Sequence[EvaluationImage], first: int, settings: Settings, embedder: "Embedder | None") -> Part:
    """Read and describe images, the first of which has the number `first` in its set."""
    digests, sizes, rows, unreadable = [], [], [], []
    vectors: list[NDArray[np.float32] | None] = []
    for number, image in enumerate(images, start=first):
        try:
            content = _read(image.path)
            pixels = decode(content)
        except Unreadable as error:
            unreadable.append((str(number), str(error)))
            digests.append((_EMPTY, _EMPTY))
            sizes.append((0, 0))
            rows.append(np.zeros((0, BYTES), dtype=np.uint8))
            vectors.append(None)
            continue
        digests.append((bytes_digest(content), pixels_digest(pixels)))
        sizes.append(pixels.shape[:2])
        rows.append(evaluation_rows(pixels)[0] if settings.has(FINGERPRINT) else np.zeros((0, BYTES), dtype=np.uint8))
        vectors.append(_vectors(pixels, embedder) if embedder and settings.has(EMBEDDING) else None)
    return Part(
        _table([one for one, _ in digests]),
        _table([one for _, one in digests]),
        np.array(sizes, dtype=np.int64).reshape(-1, 2),
        np.concatenate(rows),
        np.repeat(np.arange(len(rows)), [len(one) for one in rows]),
        _filled(vectors),
        np.array(unreadable, dtype=np.str_).reshape(-1, 2),
    )


def _read(path: str) -> bytes:
    try:
        return remote.read(path)
    except OSError as error:
        raise Unreadable(remote.reason(error)) from error


def _vectors(pixels: Pixels, embedder: "Embedder") -> NDArray[np.float32]:
    return embedder.embed([pixels, np.ascontiguousarray(pixels[:, ::-1])])


def _filled(vectors: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32]:
    """[2, D] each -> [2 N, D]; a missing one is zeros, which resemble nothing."""
    width = next((one.shape[1] for one in vectors if one is not None), 0)
    return np.concatenate([np.zeros((2, width), dtype=np.float32) if one is None else one for one in vectors])


def _table(digests: Sequence[bytes]) -> Digests:
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, SIZE)
