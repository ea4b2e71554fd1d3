"""Which indices each rank is given."""

from itertools import chain, islice

import pytest
import torch
from detectron2.data.samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler


def first(sampler, count: int) -> list[int]:
    return list(islice(iter(sampler), count))


def test_training_order_is_one_permutation_after_another():
    order = first(TrainingSampler(10, seed=3), 30)
    passes = [order[:10], order[10:20], order[20:]]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert passes[0] != passes[1] != passes[2]
    assert first(TrainingSampler(4, shuffle=False), 10) == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_the_same_seed_gives_the_same_order_and_another_seed_another():
    assert first(TrainingSampler(50, seed=1), 120) == first(TrainingSampler(50, seed=1), 120)
    assert first(TrainingSampler(50, seed=1), 50) != first(TrainingSampler(50, seed=2), 50)


def test_a_data_set_of_nothing_is_refused():
    with pytest.raises(ValueError):
        TrainingSampler(0)
    with pytest.raises(AssertionError):
        InferenceSampler(0)


def test_inference_pieces_are_consecutive_equal_and_cover_everything():
    for size in (1, 5, 8, 13):
        pieces = [list(InferenceSampler._get_local_indices(size, 4, rank)) for rank in range(4)]
        assert list(chain.from_iterable(pieces)) == list(range(size))
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
    assert list(InferenceSampler(6)) == list(range(6))
    assert len(InferenceSampler(6)) == 6


def records(*categories: tuple[int, ...]) -> list[dict]:
    return [{"annotations": [{"category_id": category} for category in image]} for image in categories]


def test_repeat_factor_of_an_image_is_that_of_its_rarest_category():
    # category 0 is in 4 of 4 images, category 1 in 1 of 4
    images = records((0, 0), (0,), (0, 1), (0,))
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(images, 1.0)
    torch.testing.assert_close(factors, torch.tensor([1.0, 1.0, 2.0, 1.0]))
    plain = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(images, 1.0, sqrt=False)
    torch.testing.assert_close(plain, torch.tensor([1.0, 1.0, 4.0, 1.0]))
    common = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(images, 0.001)
    torch.testing.assert_close(common, torch.ones(4))


def test_fractional_repeats_are_right_on_average():
    wanted = torch.tensor([1.0, 2.5, 1.25, 3.0])
    sampler = RepeatFactorTrainingSampler(wanted.repeat(500), seed=0)
    drawn = torch.tensor(first(sampler, 4 * 3875))  # four passes of 500 x 7.75 images
    torch.testing.assert_close(torch.bincount(drawn % 4) / 2000, wanted, atol=0.06, rtol=0)
    assert first(RepeatFactorTrainingSampler(torch.tensor([1.0, 2.0]), shuffle=False), 6) == [0, 1, 1, 0, 1, 1]
