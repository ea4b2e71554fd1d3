"""The order of a training: detectron2's, entered anywhere, shared out to any number of processes."""

import random
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler

from eva02_det.data.loaders import build_train_loader
from eva02_det.data.order import Draw, Draws, EndlessOrder
from eva02_det.utils.errors import UserError

FACTORS = torch.tensor([1.0, 2.5, 1.2, 1.0, 3.0, 1.7, 1.0])
SIZE = len(FACTORS)


def order(factors: torch.Tensor | None, seed: int = 5) -> EndlessOrder:
    return EndlessOrder(SIZE, seed, factors)


@pytest.mark.parametrize("factors", [None, FACTORS])
def test_it_is_the_order_of_the_sampler_of_detectron2(factors: torch.Tensor | None):
    theirs = TrainingSampler(SIZE, seed=5) if factors is None else RepeatFactorTrainingSampler(factors, seed=5)
    ours = islice(order(factors).dealt(0, 1), 60)
    assert [number for number, _ in ours] == list(islice(iter(theirs), 60))


@pytest.mark.parametrize("factors", [None, FACTORS])
@pytest.mark.parametrize("world", [1, 3])
def test_entered_anywhere_it_goes_on_as_from_the_start_shared_out_to_any_number_of_processes(
    factors: torch.Tensor | None, world: int
):
    whole = list(islice(order(factors).dealt(0, 1), 120))
    assert [place for _, place in whole] == list(range(120))
    entered = order(factors)
    for place in (0, 1, SIZE - 1, SIZE, 3 * SIZE + 2, 50):
        entered.seek(place)
        streams = [list(islice(entered.dealt(rank, world), 12)) for rank in range(world)]
        together = [draw for turn in zip(*streams) for draw in turn]
        assert together == whole[place : place + len(together)]


def test_seven_million_draws_are_passed_over_without_being_drawn(monkeypatch: pytest.MonkeyPatch):
    passes = []
    through = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *args, **kwargs: passes.append(1) or through(*args, **kwargs))
    long = EndlessOrder(100_000, 0, torch.full((100_000,), 1.5))
    long.seek(7_700_000)
    assert len(passes) <= 55  # one shuffle for each pass of 150 000
    assert next(long.dealt(0, 1))[1] == 7_700_000


def grouped(images: int = 0, rank: int = 0, world: int = 1) -> list[Draw]:
    wide = torch.tensor([True, False, True, True, False, True, False])
    draws = Draws(order(None), rank=rank, world=world, batch_size=2, wide=wide)
    draws.seek(images)
    return list(islice(iter(draws), 24))


def test_images_are_grouped_by_shape_as_detectron2_groups_them():
    wide = [True, False, True, True, False, True, False]
    items = ({"width": 2 if wide[n] else 1, "height": 1, "number": n} for n in iter(TrainingSampler(SIZE, seed=5)))
    theirs = islice(iter(AspectRatioGroupedDataset(items, 2)), 12)
    assert [item["number"] for batch in theirs for item in batch] == [number for number, _ in grouped()]


@pytest.mark.parametrize("world", [1, 2])
def test_grouped_draws_go_on_after_any_number_of_batches(world: int):
    for rank in range(world):
        whole = grouped(0, rank, world)
        for batches in range(1, 8):
            assert grouped(batches * 2 * world, rank, world)[:8] == whole[2 * batches : 2 * batches + 8]


def noisy(record: dict) -> dict:
    """Draws from all three generators."""
    return {**record, "noise": (random.random(), float(np.random.rand()), float(torch.rand(())))}


def items(batches: int, *, images: int = 0, **options) -> list[dict]:
    records = [{"image_id": n, "width": 1 + n % 2, "height": 1, "annotations": []} for n in range(SIZE)]
    settings = {"mapper": noisy, "total_batch_size": 2, "num_workers": 0, "seed": 3, **options}
    loader = build_train_loader(records, **settings)
    loader.images = images
    return [item for batch in islice(iter(loader), batches) for item in batch]


@pytest.mark.parametrize("grouping", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_what_is_drawn_for_an_image_depends_on_seed_and_place_alone(grouping: bool, workers: int):
    whole = items(10, aspect_ratio_grouping=grouping)
    assert len({item["noise"] for item in whole}) == 20
    assert items(6, images=8, aspect_ratio_grouping=grouping, num_workers=workers) == whole[8:]
    assert items(2, seed=4) != whole[:4]


def test_reading_images_in_the_main_process_leaves_its_random_numbers_alone():
    def following() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = following()
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])
    items(3)
    assert following() == expected


def test_a_loader_goes_on_where_its_state_says_with_the_seed_of_then():
    records = [{"image_id": n, "annotations": []} for n in range(SIZE)]
    first = build_train_loader(records, mapper=noisy, total_batch_size=2, num_workers=2, seed=1)
    stream = iter(first)
    for _ in range(3):
        next(stream)
    state, expected = first.state_dict(), [next(stream), next(stream)]
    second = build_train_loader(records, mapper=noisy, total_batch_size=2, num_workers=0, seed=9)
    second.load_state_dict(state)
    assert list(islice(iter(second), 2)) == expected
    with pytest.raises(UserError, match="7 images then, 6 now"):
        build_train_loader(records[1:], mapper=noisy, total_batch_size=2, num_workers=0).load_state_dict(state)
