"""Several sources as one: every image once an epoch (the published Merged-38M), or by given weights."""

from collections.abc import Sequence

import numpy as np

from eva02_det.utils.errors import UserError
from eva02_det.utils.randomness import key_of
from eva02_det.utils.sources.base import Source


class Mixture(Source):
    """Sources one after the other, shuffled together by the loader.

    weights: None takes every image once an epoch, so that a source counts by its size (the published law). Else one positive
    number a source: its share of an epoch whatever its size; small sources are then passed over several times, each pass whole
    and shuffled anew, large ones take several epochs for a pass.
    epoch_images: images that an epoch takes with weights; by default as many as there are.
    """

    def __init__(
        self, sources: Sequence[Source], weights: Sequence[float] | None = None, epoch_images: int | None = None
    ) -> None:
        self.sources = tuple(sources)
        if not self.sources:
            raise UserError("a mixture needs at least one source of images")
        self._sizes = tuple(len(source) for source in self.sources)
        self._ends = np.cumsum(self._sizes)
        self._quotas = self._sizes if weights is None else _shares(tuple(weights), self._sizes, epoch_images or sum(self._sizes))
        if weights is None and epoch_images is not None:
            raise UserError("epoch_images of a mixture goes with weights; without them an epoch takes every image once")
        self.digest = f"{key_of(*(source.digest for source in self.sources), *self._quotas):016x}"

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> bytes:
        source, within = self._place(number)
        return source[within]

    def name(self, number: int) -> str:
        source, within = self._place(number)
        return source.name(within)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Images of each source."""
        return self._sizes

    @property
    def quotas(self) -> tuple[int, ...]:
        """Images of each source that an epoch takes."""
        return self._quotas

    def _place(self, number: int) -> tuple[Source, int]:
        part = int(np.searchsorted(self._ends, number, side="right"))
        return self.sources[part], number - int(self._ends[part]) + self._sizes[part]


def _shares(weights: tuple[float, ...], sizes: tuple[int, ...], total: int) -> tuple[int, ...]:
    """Whole numbers in the proportion of the weights that add up to `total`; the rest goes to the largest remainders."""
    if len(weights) != len(sizes) or min(weights) <= 0:
        raise UserError(f"weights={list(weights)} of a mixture must be one positive number for each of its {len(sizes)} sources")
    exact = np.array(weights, dtype=np.float64) / sum(weights) * total
    quotas = np.floor(exact).astype(np.int64)
    quotas[np.argsort(quotas - exact, kind="stable")[: total - int(quotas.sum())]] += 1
    if not quotas.all():
        raise UserError(f"an epoch of {total} images leaves none for the smallest of weights={list(weights)}; raise epoch_images")
    return tuple(int(quota) for quota in quotas)
