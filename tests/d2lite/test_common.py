"""Data sets made of other data sets, and the memory that workers share."""

import multiprocessing
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import detectron2
import pytest
from detectron2.data.common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from torch.utils import data

D2LITE = "d2lite" in Path(detectron2.__file__).parts
LINUX = sys.platform == "linux"


def private_bytes() -> int:
    """Memory of this process that no other one shares."""
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Private_"))


class ReadAll(data.Dataset):
    """One item: how much private memory a worker gains by looking at all items of the list."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        before = private_bytes()
        for number in range(len(self.items)):
            assert self.items[number]["image_id"] == number
        return private_bytes() - before


def many_records(count: int = 10_000) -> list[dict]:
    """About 25 MB as Python objects."""
    return [{"image_id": n, "annotations": [{"bbox": [n + 0.5, k + 0.25, 1.5, 2.5]} for k in range(6)]} for n in range(count)]


def growth_in_workers(items: Any) -> int:
    loader = data.DataLoader(ReadAll(items), num_workers=2, batch_size=None, multiprocessing_context="fork")
    return max(int(grown) for grown in loader)


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_forked_workers_share_the_list_instead_of_copying_it():
    records = many_records()
    shared = growth_in_workers(DatasetFromList(records))
    copied = growth_in_workers(DatasetFromList(records, serialize=False, copy=False))
    assert copied > 8 << 20, "the measure does not see a copy"
    assert shared < copied / 2  # a fork costs a few pages of its own, in a busy process some MiB


def open_file_of(store: DatasetFromList, answers: Any) -> None:
    answers.put((os.fstat(store._items.file).st_ino, store[1]))


@pytest.mark.skipif(not (D2LITE and LINUX), reason="how a store reaches a spawned worker is the provider's affair")
def test_a_spawned_worker_maps_the_same_file():
    store = DatasetFromList([{"a": 1}, {"b": [2, 3]}])
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    worker = spawn.Process(target=open_file_of, args=(store, answers))
    worker.start()
    assert answers.get(timeout=60) == (os.fstat(store._items.file).st_ino, {"b": [2, 3]})
    worker.join()


def test_a_list_gives_back_equal_items_that_can_be_changed_safely():
    records = [{"image_id": 1, "annotations": [{"bbox": [1, 2]}]}, {"image_id": 2}]
    store = DatasetFromList(records)
    store[0]["annotations"][0]["bbox"][0] = 99
    assert len(store) == 2
    assert [store[0], store[1]] == records
    assert pickle.loads(pickle.dumps(store))[1] == {"image_id": 2}


def test_an_unserialized_list_is_copied_item_by_item_on_request():
    records = [{"boxes": [1]}]
    assert DatasetFromList(records, copy=False, serialize=False)[0] is records[0]
    copied = DatasetFromList(records, copy=True, serialize=False)[0]
    assert copied == records[0]
    assert copied["boxes"] is not records[0]["boxes"]


def only_even(number: int) -> int | None:
    return number * 10 if number % 2 == 0 else None


def test_an_item_that_maps_to_nothing_is_replaced_by_another():
    mapped = MapDataset([0, 1, 2, 3], only_even)
    assert len(mapped) == 4
    assert mapped[2] == 20
    assert {mapped[1] for _ in range(20)} <= {0, 20}
    assert pickle.loads(pickle.dumps(mapped))[2] == 20


def test_a_mapped_stream_leaves_out_what_maps_to_nothing():
    stream = ToIterableDataset(list(range(6)), data.SequentialSampler(range(6)))
    assert list(MapDataset(stream, only_even)) == [0, 20, 40]


def test_workers_divide_a_stream_between_them():
    stream = ToIterableDataset(list("abcdefgh"), data.SequentialSampler(range(8)))
    assert list(stream) == list("abcdefgh")
    assert sorted(data.DataLoader(stream, batch_size=None, num_workers=2)) == list("abcdefgh")


def test_grouped_batches_are_all_wide_or_all_tall():
    sizes = [(4, 3), (3, 4), (4, 3), (3, 5), (9, 2), (1, 2), (2, 1)]
    images = [{"width": width, "height": height, "n": n} for n, (width, height) in enumerate(sizes)]
    batches = [[image["n"] for image in batch] for batch in AspectRatioGroupedDataset(images, 2)]
    assert batches == [[0, 2], [1, 3], [4, 6]]
