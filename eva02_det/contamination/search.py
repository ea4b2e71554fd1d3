"""All pairs of fingerprints that differ in few bits: exact, by parts that must nearly agree, in bounded memory.

The bits are cut into parts. Where two rows differ in at most `max_bits`, they cannot differ in more than r_i bits of every part i
if the r_i + 1 add up to max_bits + 1. So it is enough to look, part by part, at the rows whose part is within r_i bits of the
query's (Norouzi, Punjani and Fleet: multi-index hashing, with the radii of its refinement), and to count the bits of those.

Axes: N indexed rows, Q queries, P parts, R pairs found.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from eva02_det.utils.errors import UserError

CHUNK = 1 << 20  # pairs that are looked at together: bounds the memory
WIDEST_PART = 22  # bits; the table of a part has 2 ** bits entries
LOOK_COST, COUNT_COST = 1.0, 2.0  # relative times of looking up one key and of counting the bits of one pair

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Matches:
    """R pairs, ordered by query, then by row."""

    query: Ints  # [R]
    row: Ints  # [R]
    bits: Ints  # [R], how many differ


@dataclass(frozen=True)
class Part:
    """Bits `first` to `first + width`, in which a found pair differs in at most `radius`."""

    first: int
    width: int
    radius: int

    @cached_property
    def patterns(self) -> Ints:
        """Every set of at most `radius` bits of the part, as a mask."""
        sets = (c for r in range(self.radius + 1) for c in itertools.combinations(range(self.width), r))
        return np.array([sum(1 << bit for bit in chosen) for chosen in sets], dtype=np.int64)


def plan_parts(bits: int, rows: int, max_bits: int) -> list[Part]:
    """The division of the bits that costs least for an index of so many rows."""

    def divided(count: int) -> list[Part]:
        widths = [bits // count + (i < bits % count) for i in range(count)]
        shares = [(max_bits + 1) // count + (i < (max_bits + 1) % count) for i in range(count)]
        firsts = itertools.accumulate([0, *widths[:-1]])
        parts = zip(firsts, widths, shares[::-1])
        return [Part(first, width, share - 1) for first, width, share in parts if share]  # a part without a share need not agree

    def cost(parts: list[Part]) -> float:
        looks = [sum(math.comb(p.width, r) for r in range(p.radius + 1)) for p in parts]
        return sum(n * (LOOK_COST + COUNT_COST * rows / 2**p.width) for n, p in zip(looks, parts))

    fewest = -(-bits // WIDEST_PART)
    plans = [divided(count) for count in range(fewest, max(fewest, min(max_bits + 1, bits)) + 1)]
    return min(plans, key=cost)


def count_bits(first: Bytes, second: Bytes) -> Ints:
    """How many bits differ, row by row: uint8 [R, B] twice, B a multiple of 8 -> [R]."""
    return _ones(_words(first) ^ _words(second))


def _words(rows: Bytes) -> NDArray[np.uint64]:
    """[N, B] -> [N, B / 8], big-endian: bit 63 of a word comes first in its row."""
    return np.ascontiguousarray(rows).view(">u8").astype(np.uint64)


def _ones(words: NDArray[np.uint64]) -> Ints:
    """[R, W] -> number of set bits, [R]."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words).sum(axis=1, dtype=np.int64)
    return np.unpackbits(words.view(np.uint8), axis=1).sum(axis=1, dtype=np.int64)  # NumPy 1


def _keys(words: NDArray[np.uint64], part: Part) -> Ints:
    """The bits of one part of every row, [N, W] -> [N]."""
    word, offset = divmod(part.first, 64)
    both = words[:, word] << np.uint64(offset)
    if offset + part.width > 64:
        both = both | (words[:, word + 1] >> np.uint64(64 - offset))
    return (both >> np.uint64(64 - part.width)).astype(np.int64)


class FingerprintIndex:
    """Finds which of N rows differ from a query in at most `max_bits` bits.

    Args:
        rows: uint8 [N, B], B a multiple of 8.
        max_bits: 0 .. 8 B.

    Memory: 4 bytes a row and part and 4 bytes a table entry, beside the rows; while it searches, a constant on top.
    """

    def __init__(self, rows: Bytes, max_bits: int) -> None:
        if rows.ndim != 2 or rows.shape[1] % 8 or rows.dtype != np.uint8:
            raise UserError(f"fingerprints must be bytes [N, 8 k], not {rows.dtype} {list(rows.shape)}")
        if not 0 <= max_bits <= 8 * rows.shape[1]:
            raise UserError(f"max_bits={max_bits} must lie between 0 and the {8 * rows.shape[1]} bits of a fingerprint")
        self.max_bits, self.words = max_bits, _words(rows)
        self.parts = plan_parts(8 * rows.shape[1], len(rows), max_bits)
        self._tables = [self._table(part) for part in self.parts]

    def __len__(self) -> int:
        return len(self.words)

    def _table(self, part: Part) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Rows sorted by the part's bits, and where the rows of each value start."""
        keys = _keys(self.words, part)
        starts = np.zeros(2**part.width + 1, dtype=np.int32)
        np.cumsum(np.bincount(keys, minlength=2**part.width), out=starts[1:])
        return np.argsort(keys, kind="stable").astype(np.int32), starts

    def search(self, rows: Bytes) -> Matches:
        """Every pair of a query, uint8 [Q, B], and an indexed row within `max_bits`."""
        queries = _words(rows.reshape(len(rows), 8 * self.words.shape[1]))
        found = [np.empty(0, dtype=np.int64)]
        for part, table in zip(self.parts, self._tables):
            found += self._near(queries, part, *table)
        pairs = np.unique(np.concatenate(found))  # a pair may be near in several parts
        query, row = np.divmod(pairs, max(len(self), 1))
        return Matches(query, row, _ones(queries[query] ^ self.words[row]))

    def _near(self, queries: NDArray[np.uint64], part: Part, order: NDArray[np.int32], starts: NDArray[np.int32]) -> list[Ints]:
        """Pairs query * N + row within `max_bits` whose bits of this part are near."""
        found = []
        keys = _keys(queries, part)
        step = max(CHUNK // len(part.patterns), 1)
        for begin in range(0, len(keys), step):
            wanted = keys[begin : begin + step, None] ^ part.patterns
            first = starts[wanted]
            count = starts[wanted + 1] - first
            asked, pattern = np.nonzero(count)
            first, count = first[asked, pattern], count[asked, pattern].astype(np.int64)
            ends = np.cumsum(count)
            at = 0
            while at < len(count):  # as many lists as fit into a chunk, at least one
                before = ends[at - 1] if at else 0
                stop = max(int(np.searchsorted(ends, before + CHUNK, side="right")), at + 1)
                lengths = count[at:stop]
                inside = np.arange(ends[stop - 1] - before) - np.repeat(ends[at:stop] - lengths - before, lengths)
                row = order[np.repeat(first[at:stop], lengths) + inside]
                query = np.repeat(asked[at:stop] + begin, lengths)
                near = _ones(queries[query] ^ self.words[row]) <= self.max_bits
                found.append(query[near] * len(self) + row[near])
                at = stop
        return found
