"""Which image is read at which position: shuffles that are computed where they are needed and kept nowhere."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from eva02_det.utils.randomness import key_of

Ints = NDArray[np.int64]

# Below this many images a shuffle is a sort by hash, exactly uniform; above, a keyed bijection that needs no memory.
SORTED_UP_TO = 1 << 16
ROUNDS = 10


def permute(positions: Ints, size: int, key: int) -> Ints:
    """Where a shuffle of range(size) puts each position. int64 [K] in [0, size) -> int64 [K], one to one.

    Large sizes: a Feistel network over the next power of two, whose steps are one to one whatever the round function is;
    results that fall outside range(size) go through it again until they fall inside.
    """
    if size <= SORTED_UP_TO:
        return _sorted(size, key)[positions]
    bits = int(size - 1).bit_length()
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        values[outside] = _feistel(values[outside], bits, key)
        outside = values >= np.uint64(size)
    return values.astype(np.int64)


@lru_cache(maxsize=16)
def _sorted(size: int, key: int) -> Ints:
    """range(size) in the order of hashes; kept for the batches that follow."""
    return np.argsort(_scramble(np.arange(size, dtype=np.uint64) ^ np.uint64(key)), kind="stable")


@lru_cache(maxsize=64)
def _salts(key: int) -> tuple[np.uint64, ...]:
    return tuple(np.uint64(key_of(key, step)) for step in range(ROUNDS))


def _feistel(values: NDArray[np.uint64], bits: int, key: int) -> NDArray[np.uint64]:
    """One pass over range(2 ** bits): the two halves of a number change each other by turns."""
    low_bits = np.uint64(bits // 2)
    low_mask, high_mask = np.uint64((1 << (bits // 2)) - 1), np.uint64((1 << (bits - bits // 2)) - 1)
    low, high = values & low_mask, values >> low_bits
    for step, salt in enumerate(_salts(key)):
        if step % 2:
            low = low ^ (_scramble(high ^ salt) & low_mask)
        else:
            high = high ^ (_scramble(low ^ salt) & high_mask)
    return (high << low_bits) | low


def _scramble(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A one-to-one mixing of 64-bit numbers (the finaliser of SplitMix64; Steele et al., 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class EpochOrder:
    """The shuffled order of one or several sources.

    sizes: images of each source. quotas: how many of each an epoch takes. A source with a quota other than its size is passed
    over again and again, shuffled anew each time, and an epoch takes up where the last one stopped: no image is seen k + 1
    times before every image of its source was seen k times.
    """

    def __init__(self, sizes: Sequence[int], quotas: Sequence[int], seed: int) -> None:
        self.sizes, self.quotas, self.seed = tuple(sizes), tuple(quotas), seed
        self._first_sample = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._first_slot = np.concatenate([[0], np.cumsum(quotas)]).astype(np.int64)

    def __len__(self) -> int:
        """Images of an epoch."""
        return int(self._first_slot[-1])

    def at(self, epoch: int, positions: Ints) -> tuple[Ints, Ints]:
        """(samples, visits) at the positions [K] of an epoch: int64 [K] each.

        A sample is a number in range(sum(sizes)), a visit how many times its source was passed over before.
        """
        slots = permute(positions, len(self), key_of("epoch", self.seed, epoch))
        origin = np.searchsorted(self._first_slot, slots, side="right") - 1
        samples, visits = np.empty_like(slots), np.empty_like(slots)
        for source in np.unique(origin):
            here = origin == source
            samples[here], visits[here] = self._draws(int(source), epoch, slots[here] - self._first_slot[source])
        return samples, visits

    def _draws(self, source: int, epoch: int, ranks: Ints) -> tuple[Ints, Ints]:
        size, quota = self.sizes[source], self.quotas[source]
        visits, within = np.divmod(epoch * quota + ranks, size)
        if quota != size:  # else the shuffle of the epoch has mixed the one whole pass already
            for visit in np.unique(visits):
                here = visits == visit
                within[here] = permute(within[here], size, key_of("source", self.seed, source, int(visit)))
        return self._first_sample[source] + within, visits
