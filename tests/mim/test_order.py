"""Shuffles that are computed where they are needed."""

import tracemalloc

import numpy as np
import pytest

from eva02_det.utils.randomness import key_of
from eva02_mim.order import SORTED_UP_TO, EpochOrder, permute


def everyone(size: int) -> np.ndarray:
    return np.arange(size, dtype=np.int64)


@pytest.mark.parametrize("size", [1, 2, 3, 17, 1000, SORTED_UP_TO, SORTED_UP_TO + 1, 1 << 17, 150_001])
def test_a_shuffle_takes_everyone_once(size: int):
    assert np.array_equal(np.sort(permute(everyone(size), size, key_of("a", size))), everyone(size))


@pytest.mark.parametrize("size", [500, 100_003])
def test_a_part_of_a_shuffle_is_the_same_as_in_the_whole(size: int):
    some = np.array([7, 0, size - 1, 123], dtype=np.int64)
    assert np.array_equal(permute(some, size, 9), permute(everyone(size), size, 9)[some])


@pytest.mark.parametrize("size", [SORTED_UP_TO, 200_003])
def test_a_shuffle_has_no_trace_of_the_order_it_came_from(size: int):
    order = everyone(size)
    for key in range(5):
        shuffled = permute(order, size, key_of("trace", key))
        # correlations of independent numbers have a standard deviation of 1 / sqrt(size): five of them are allowed
        bound = 5 / np.sqrt(size)
        assert abs(np.corrcoef(order, shuffled)[0, 1]) < bound
        assert abs(np.corrcoef(shuffled[:-1], shuffled[1:])[0, 1]) < bound
        assert (shuffled == order).sum() < 10  # fixed points of a random permutation: Poisson with mean 1
        # neighbours must not stay neighbours: |difference| 1 comes 2 times on average
        assert (np.abs(np.diff(shuffled)) == 1).sum() < 15


@pytest.mark.parametrize("size", [5, 70_000])
def test_every_place_is_reached_from_every_position_equally_often(size: int):
    cells, draws = 5, 4000
    position = np.array([size // 2], dtype=np.int64)
    landed = [int(permute(position, size, key_of("cell", key))[0]) * cells // size for key in range(draws)]
    counts = np.bincount(landed, minlength=cells)
    chi_square = ((counts - draws / cells) ** 2 / (draws / cells)).sum()
    assert chi_square < 18.5  # 4 degrees of freedom, one chance in a thousand


def test_two_keys_give_two_shuffles():
    first, second = (permute(everyone(100_000), 100_000, key_of("epoch", 0, epoch)) for epoch in (0, 1))
    assert (first == second).sum() < 10


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order():
    order = EpochOrder([30, 12], [30, 12], seed=3)
    epochs = [order.at(epoch, everyone(42)) for epoch in range(3)]
    for epoch, (samples, visits) in enumerate(epochs):
        assert np.array_equal(np.sort(samples), everyone(42))
        assert (visits == epoch).all()
    assert not np.array_equal(epochs[0][0], epochs[1][0])
    assert not np.array_equal(epochs[0][0], EpochOrder([30, 12], [30, 12], seed=4).at(0, everyone(42))[0])


def test_an_epoch_of_a_weighted_mixture_holds_each_source_by_its_quota():
    order = EpochOrder([1000, 10], [60, 40], seed=0)
    for epoch in range(3):
        samples, _ = order.at(epoch, everyone(100))
        assert (samples < 1000).sum() == 60
        assert (samples >= 1000).sum() == 40


def test_no_image_is_seen_again_before_all_of_its_source_were_seen():
    size, quota = 7, 10  # epochs end in the middle of a pass
    order = EpochOrder([size, 50], [quota, 5], seed=1)
    seen = []
    for epoch in range(7):
        samples, visits = order.at(epoch, everyone(15))
        mine = samples < size
        seen += list(zip(visits[mine].tolist(), samples[mine].tolist()))
    passes = sorted(seen)
    assert passes == [(visit, sample) for visit in range(quota) for sample in range(size)]  # 7 epochs x 10 = 10 passes x 7
    assert len(set(seen)) == len(seen)


def test_the_passes_of_a_small_source_are_shuffled_anew():
    order = EpochOrder([40, 1], [400, 1], seed=1)
    samples, visits = order.at(0, everyone(401))
    ranked = [samples[(visits == visit) & (samples < 40)] for visit in range(10)]
    assert len({tuple(one.tolist()) for one in ranked}) == 10


def test_the_order_of_38_million_images_takes_no_memory():
    tracemalloc.start()
    try:
        order = EpochOrder([38_000_000], [38_000_000], seed=0)
        samples, _ = order.at(55, np.arange(37_000_000, 37_002_048, dtype=np.int64))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(np.unique(samples)) == 2048
    assert peak < 1 << 20


def test_keys_depend_on_every_part_and_on_their_order():
    keys = {key_of(1, 2, 3), key_of(3, 2, 1), key_of(1, 2), key_of(12, 3), key_of("a", 1, 2, 3)}
    assert len(keys) == 5
