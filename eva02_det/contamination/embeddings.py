"""Embeddings of pictures and their search: finds copies that fingerprints miss, with whatever network the user trusts.

Axes: N images or indexed vectors, Q queries, D numbers of a vector, R pairs.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from eva02_det.contamination.networks import Network, open_network
from eva02_det.utils.errors import UserError

BATCH = 32
QUERIES = 4096  # that are searched together: bounds the memory

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SimilarPairs:
    """R pairs, ordered by query, then by row."""

    query: Ints  # [R]
    row: Ints  # [R]
    similarity: Floats  # [R], cosine


class Embedder:
    """Pictures -> vectors of unit length, by a network."""

    def __init__(self, network: Network, device: str | torch.device = "cpu") -> None:
        self.network, self.device = network, device
        self._mean = torch.tensor(network.mean, device=device)[:, None, None] * 255
        self._std = torch.tensor(network.std, device=device)[:, None, None] * 255

    def embed(self, images: Sequence[Bytes]) -> Floats:
        """uint8 [H, W, 3] each, of any sizes -> [N, D]. A picture is pressed into a square, as copies may have lost its shape."""
        parts = [self._embed(images[begin : begin + BATCH]) for begin in range(0, len(images), BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)

    def _embed(self, images: Sequence[Bytes]) -> Floats:
        side = (self.network.size, self.network.size)
        squares = [np.asarray(Image.fromarray(image).convert("RGB").resize(side, Image.Resampling.BICUBIC)) for image in images]
        pixels = torch.from_numpy(np.stack(squares)).to(self.device).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            vectors = self.network.forward((pixels - self._mean) / self._std)
            if not isinstance(vectors, torch.Tensor) or vectors.ndim != 2 or len(vectors) != len(images):
                raise UserError("the network does not give one vector for each picture; choose one that does")
            return torch.nn.functional.normalize(vectors.float(), dim=1).cpu().numpy()


def open_embedder(spec: str, device: str | torch.device = "cpu", *, size: int | None = None) -> Embedder:
    """A network by name, ready to embed pictures.

    Args:
        spec: `timm/NAME`; `open_clip/NAME[:tag]`; a TorchScript file, whose network takes ImageNet-normalised squares (as the
            published copy-detection networks do); or a checkpoint with a TrV: of pre-training or of a detector, a file, an
            exported folder or `hf://owner/name/file`.
        size: pixels of a side, where it shall not be the network's own.

    Raises:
        UserError: in one sentence, also where a file is not cached and the hub is out of reach.
    """
    return Embedder(open_network(spec, device, size), device)


class EmbeddingIndex:
    """Finds which of N vectors are similar to a query: exact, by faiss.

    Args:
        vectors: float32 [N, D] of unit length.
        min_similarity: least cosine of a pair.
    """

    def __init__(self, vectors: Floats, min_similarity: float) -> None:
        if not 0 < min_similarity <= 1:
            raise UserError(f"min_similarity={min_similarity} must lie above 0 and not above 1, the similarity of equal pictures")
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise UserError("embeddings must be finite numbers [N, D]; the network gave others")
        self.min_similarity, self._dim = min_similarity, vectors.shape[1]
        self._index: Any = _faiss().IndexFlatIP(max(self._dim, 1))
        if len(vectors):
            self._index.add(np.ascontiguousarray(vectors, dtype=np.float32))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(self, vectors: Floats) -> SimilarPairs:
        """Every pair of a query, float32 [Q, D] of unit length, and an indexed vector that reaches `min_similarity`."""
        parts = list(self._parts(np.ascontiguousarray(vectors, dtype=np.float32))) if len(vectors) and len(self) else []
        if not parts:
            empty = np.empty(0, dtype=np.int64)
            return SimilarPairs(empty, empty, np.empty(0, dtype=np.float32))
        query, row, similarity = (np.concatenate(part) for part in zip(*parts))
        order = np.lexsort((row, query))
        return SimilarPairs(query[order], row[order], similarity[order])

    def _parts(self, vectors: Floats) -> Iterator[tuple[Ints, Ints, Floats]]:
        if vectors.shape[1] != self._dim:
            raise UserError(f"queries have {vectors.shape[1]} numbers and the index {self._dim}; embed both with one network")
        least = np.nextafter(np.float32(self.min_similarity), np.float32(-1))  # faiss gives what is above its limit
        for begin in range(0, len(vectors), QUERIES):
            limits, similarity, row = self._index.range_search(vectors[begin : begin + QUERIES], float(least))
            query = np.repeat(np.arange(begin, begin + len(limits) - 1), np.diff(limits.astype(np.int64)))
            yield query, row.astype(np.int64), similarity


def _faiss() -> Any:
    if importlib.util.find_spec("faiss") is None:
        raise UserError("the search of embeddings needs `pip install faiss-cpu`, of the extra contamination; fingerprints do not")
    import faiss

    return faiss
