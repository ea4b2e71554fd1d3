"""Loaders: the same seed gives the same batches, ranks see different images, evaluation sees each image once."""

import os
import sys
from itertools import chain, islice
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import pytest
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.data.common import DatasetFromList
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from tests.d2lite.two_ranks import on_two_ranks

D2LITE = "d2lite" in Path(detectron2.__file__).parts


def records(count: int = 12) -> list[dict]:
    return [{"image_id": n, "width": 40 if n % 2 else 20, "height": 30} for n in range(count)]


def jittered(record: dict) -> dict:
    """A mapper whose result shows the random numbers."""
    return {**record, "drawn": float(np.random.uniform())}


def batches(count: int, seed: int, **options: Any) -> list[list[tuple[int, float]]]:
    seed_all_rng(seed)
    sampler = TrainingSampler(12, seed=seed)
    arguments = {"mapper": jittered, "total_batch_size": 4, "sampler": sampler, "seed": seed, **options}
    loader = build_detection_train_loader(records(), **arguments)
    return [[(item["image_id"], item["drawn"]) for item in batch] for batch in islice(iter(loader), count)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("grouping", [True, False])
def test_the_same_seed_gives_the_same_batches_and_draws(workers, grouping):
    options = {"num_workers": workers, "aspect_ratio_grouping": grouping}
    once = batches(5, 1, **options)
    assert once == batches(5, 1, **options)
    assert once != batches(5, 2, **options)
    drawn = [number for batch in once for _, number in batch]
    assert len(set(drawn)) == len(drawn), "workers repeat each other's random numbers"


def test_the_order_of_batches_does_not_depend_on_the_number_of_workers():
    order = [[n for n, _ in batch] for batch in batches(6, 3, aspect_ratio_grouping=False)]
    in_workers = [[n for n, _ in batch] for batch in batches(6, 3, aspect_ratio_grouping=False, num_workers=2)]
    assert order == in_workers


def test_grouped_batches_hold_images_of_one_orientation():
    for batch in batches(6, 0, aspect_ratio_grouping=True):
        assert len({n % 2 for n, _ in batch}) == 1
        assert len(batch) == 4


def test_a_batch_function_makes_the_batch():
    options = {"mapper": None, "total_batch_size": 2, "collate_fn": len}
    for grouping in (True, False):
        loader = build_detection_train_loader(records(), aspect_ratio_grouping=grouping, **options)
        assert list(islice(iter(loader), 3)) == [2, 2, 2]


def test_the_test_loader_shows_every_image_once_in_order():
    loader = build_detection_test_loader(records(5), mapper=jittered, batch_size=2)
    assert [[item["image_id"] for item in batch] for batch in loader] == [[0, 1], [2, 3], [4]]
    assert len(build_detection_test_loader(records(5), mapper=jittered)) == 5


class CountImages(DatasetEvaluator):
    def __init__(self) -> None:
        self.seen: list[int] = []

    def process(self, inputs: Any, outputs: Any) -> None:
        self.seen += outputs

    def evaluate(self) -> dict | None:
        gathered = comm.gather(self.seen)
        return {"seen": {"images": sorted(chain.from_iterable(gathered))}} if comm.is_main_process() else None


def ids(inputs: list[dict]) -> list[int]:
    return [item["image_id"] for item in inputs]


def one_rank() -> dict[str, Any]:
    """Everything that is to be seen with two processes, so that they start once."""
    loader = build_detection_train_loader(
        records(), mapper=jittered, total_batch_size=4, sampler=TrainingSampler(12, seed=5), aspect_ratio_grouping=False
    )
    alone = DatasetFromList(records(3)) if comm.get_rank() == 0 else None  # must not wait for the other rank
    store = DatasetFromList(records(2000))
    comm.synchronize()  # nobody leaves before the other has opened
    return {
        "order": list(islice(iter(TrainingSampler(10, seed=5)), 10)),
        "shared_seed": list(islice(iter(TrainingSampler(10)), 5)),
        "inference": list(InferenceSampler(5)),
        "batches": [[item["image_id"] for item in batch] for batch in islice(iter(loader), 3)],
        "evaluated": inference_on_dataset(ids, build_detection_test_loader(records(5), mapper=jittered), CountImages()),
        "file": os.fstat(store._items.file).st_ino if D2LITE else None,
        "last": store[1999]["image_id"],
        "alone": alone is None or alone[2]["image_id"],
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_two_ranks(one_rank, tmp_path_factory.mktemp("ranks"))


@pytest.mark.distributed
def test_two_ranks_take_alternate_images_of_one_permutation(ranks):
    interleaved = [n for pair in zip(ranks[0]["order"], ranks[1]["order"]) for n in pair]
    assert interleaved == list(islice(iter(TrainingSampler(10, seed=5)), 20))
    assert sorted(interleaved[:10]) == list(range(10))
    assert sorted(ranks[0]["shared_seed"] + ranks[1]["shared_seed"]) == list(range(10))


@pytest.mark.distributed
def test_two_ranks_make_disjoint_batches_of_half_the_total_size(ranks):
    for rank in ranks:
        assert [len(batch) for batch in rank["batches"]] == [2, 2, 2]
    assert sorted(chain.from_iterable(ranks[0]["batches"] + ranks[1]["batches"])) == list(range(12))


@pytest.mark.distributed
def test_two_ranks_evaluate_every_image_once(ranks):
    assert ranks[0]["inference"] + ranks[1]["inference"] == list(range(5))
    assert ranks[0]["evaluated"] == {"seen": {"images": list(range(5))}}
    assert ranks[1]["evaluated"] == {}


@pytest.mark.distributed
@pytest.mark.skipif(not (D2LITE and sys.platform == "linux"), reason="the official detectron2 keeps one store per rank")
def test_two_ranks_of_a_machine_map_one_copy_of_the_records(ranks):
    assert ranks[0]["file"] == ranks[1]["file"]
    assert ranks[0]["last"] == ranks[1]["last"] == 1999
    assert ranks[0]["alone"] == 2
