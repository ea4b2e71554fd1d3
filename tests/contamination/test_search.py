"""The search finds every pair within the limit and no other, whatever the limit, in bounded memory."""

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from eva02_det.contamination import search
from eva02_det.contamination.search import FingerprintIndex, count_bits, plan_parts
from eva02_det.utils.errors import UserError

Bytes = NDArray[np.uint8]


def fingerprints(count: int, size: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (count, size), dtype=np.uint8)


def turned(rows: Bytes, most: int, seed: int = 1) -> Bytes:
    """Rows with 0 .. most of their bits turned, any of them."""
    rng = np.random.default_rng(seed)
    bits = np.unpackbits(rows, axis=1)
    for row in bits:
        row[rng.permutation(len(row))[: rng.integers(most + 1)]] ^= 1
    return np.packbits(bits, axis=1)


def brute_force(rows: Bytes, queries: Bytes, max_bits: int) -> list[tuple[int, int, int]]:
    unlike = (np.unpackbits(queries, axis=1)[:, None] != np.unpackbits(rows, axis=1)[None]).sum(axis=2)
    return [(int(q), int(r), int(unlike[q, r])) for q, r in np.argwhere(unlike <= max_bits)]


def found(index: FingerprintIndex, queries: Bytes) -> list[tuple[int, int, int]]:
    matches = index.search(queries)
    return list(zip(matches.query.tolist(), matches.row.tolist(), matches.bits.tolist()))


@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("max_bits", [0, 1, 2, 5, 8, 12, 19, 26])
def test_the_pairs_are_those_of_brute_force(size: int, max_bits: int) -> None:
    rows = fingerprints(400, size)
    rows[100:130] = rows[:30]  # equal rows are found one by one
    queries = np.concatenate([turned(rows[::4], max_bits + 3), fingerprints(50, size, seed=2)])
    expected = brute_force(rows, queries, max_bits)
    assert len(expected) > 30
    assert found(FingerprintIndex(rows, max_bits), queries) == expected


@pytest.mark.parametrize("rows", [1, 20_000, 3_000_000])
@pytest.mark.parametrize("max_bits", [0, 4, 8, 11, 30])
def test_no_pair_within_the_limit_can_differ_more_than_its_radius_in_every_part(rows: int, max_bits: int) -> None:
    parts = plan_parts(64, rows, max_bits)
    assert sum(part.radius + 1 for part in parts) == max_bits + 1  # so max_bits turned bits cannot overstep all of them
    places = [bit for part in parts for bit in range(part.first, part.first + part.width)]
    assert len(set(places)) == len(places)
    assert set(places) <= set(range(64))
    assert all(len(part.patterns) == len(set(part.patterns.tolist())) for part in parts)


def test_small_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = fingerprints(300, 8) & 3  # much alike: many candidates
    queries = turned(rows[:40], 4)
    whole = found(FingerprintIndex(rows, 3), queries)
    monkeypatch.setattr(search, "CHUNK", 7)
    assert found(FingerprintIndex(rows, 3), queries) == whole


def test_memory_does_not_grow_with_the_number_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CHUNK", 1 << 14)
    index = FingerprintIndex(fingerprints(2000, 8), 6)

    def peak_mib(queries: Bytes) -> float:
        tracemalloc.start()
        index.search(queries)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        return peak

    few, many = fingerprints(2000, 8, seed=3), fingerprints(16_000, 8, seed=4)
    # the queries themselves, in words and as the keys of a part, take 24 bytes each
    assert peak_mib(many) - peak_mib(few) < 1.5 * 14_000 * 24 / 2**20


def test_an_empty_index_and_no_queries_give_no_pairs() -> None:
    assert not found(FingerprintIndex(fingerprints(0, 8), 8), fingerprints(5, 8))
    assert not found(FingerprintIndex(fingerprints(5, 8), 8), fingerprints(0, 8))


def test_bits_are_counted_row_by_row() -> None:
    rows = fingerprints(50, 16)
    other = turned(rows, 20)
    expected = (np.unpackbits(rows, axis=1) != np.unpackbits(other, axis=1)).sum(axis=1)
    np.testing.assert_array_equal(count_bits(rows, other), expected)


@pytest.mark.parametrize("max_bits", [-1, 65])
def test_a_limit_that_no_fingerprint_can_have_is_refused(max_bits: int) -> None:
    with pytest.raises(UserError, match="between 0 and the 64 bits"):
        FingerprintIndex(fingerprints(5, 8), max_bits)


def test_rows_of_another_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"bytes \[N, 8 k\], not uint8 \[5, 9\]"):
        FingerprintIndex(fingerprints(5, 9), 3)
