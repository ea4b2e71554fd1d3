"""Data sets made of other data sets: a shared list, a mapped one, a sampled stream, batches of like shape."""

import copy
import logging
import random
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any

from torch.utils import data

from ._shared_list import SharedList

DRAWS = 20  # random replacements for an item that gives nothing, before all are gone through in order
MAX_BAD_ITEMS_IN_A_ROW = 3

log = logging.getLogger(__name__)


class DatasetFromList(data.Dataset):
    """A list as a data set; its items live in one block of memory that workers and ranks share."""

    def __init__(self, lst: list, copy: bool = True, serialize: bool | Callable[[list], Any] = True) -> None:
        """serialize: True stores the list shared; a function makes the store instead; False keeps the list itself, and
        only then does `copy` matter: items are handed out as deep copies."""
        if serialize is True:
            serialize = SharedList
        self._items = serialize(lst) if serialize else lst
        self._copy = copy and not serialize

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, idx: int) -> Any:
        item = self._items[idx]
        return copy.deepcopy(item) if self._copy else item


class MapDataset(data.Dataset):
    """A data set seen through a function. Items for which it returns None are replaced (or, in a stream, left out)."""

    def __new__(cls, dataset: data.Dataset, map_func: Callable[[Any], Any]) -> Any:
        if isinstance(dataset, data.IterableDataset):
            return _MappedStream(dataset, map_func)
        return super().__new__(cls)

    def __init__(self, dataset: data.Dataset, map_func: Callable[[Any], Any]) -> None:
        self._dataset, self._map_func = dataset, map_func
        self._replacements = random.Random(42)

    def __getnewargs__(self) -> tuple:
        return self._dataset, self._map_func

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, idx: int) -> Any:
        wanted = int(idx)
        drawn = (self._replacements.randrange(len(self)) for _ in range(DRAWS))
        for tries, candidate in enumerate(chain((wanted,), drawn, range(len(self))), 1):
            mapped = self._map_func(self._dataset[candidate])
            if mapped is not None:
                return mapped
            if tries == MAX_BAD_ITEMS_IN_A_ROW:
                log.warning("%d items in a row gave nothing, the first is number %d", tries, wanted)
        raise ValueError(f"no item of this data set survives {self._map_func}")


class _MappedStream(data.IterableDataset):
    """A stream seen through a function; None is left out."""

    def __init__(self, stream: data.IterableDataset, function: Callable[[Any], Any]) -> None:
        self.stream, self.function = stream, function

    def __iter__(self) -> Iterator[Any]:
        return (mapped for mapped in map(self.function, self.stream) if mapped is not None)

    def __len__(self) -> int:
        return len(self.stream)  # type: ignore[arg-type]


class ToIterableDataset(data.IterableDataset):
    """The items of a data set in the order of a sampler, dealt out to the loader's workers."""

    def __init__(
        self, dataset: data.Dataset, sampler: data.Sampler, shard_sampler: bool = True, shard_chunk_size: int = 1
    ) -> None:
        """shard_chunk_size: items in a row for one worker. With the batch size here, and workers that build whole batches
        in turn, the order of batches does not depend on the number of workers."""
        self.dataset, self.sampler = dataset, sampler
        self.shard_sampler, self.shard_chunk_size = shard_sampler, shard_chunk_size

    def __iter__(self) -> Iterator[Any]:
        for index in self._indices():
            yield self.dataset[index]

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def _indices(self) -> Iterator[int]:
        order, worker = iter(self.sampler), data.get_worker_info()
        if worker is None or not self.shard_sampler:
            yield from order
            return
        turn = 0
        while chunk := list(islice(order, self.shard_chunk_size)):
            if turn % worker.num_workers == worker.id:
                yield from chunk
            turn += 1


class AspectRatioGroupedDataset(data.IterableDataset):
    """Batches of a stream of {"width", "height", ...}: wide images with wide ones, tall with tall, so that padding is small."""

    def __init__(self, dataset: Any, batch_size: int) -> None:
        self.dataset, self.batch_size = dataset, batch_size

    def __iter__(self) -> Iterator[list[dict]]:
        waiting: dict[bool, list[dict]] = {True: [], False: []}
        for item in self.dataset:
            wide = item["width"] > item["height"]
            waiting[wide].append(item)
            if len(waiting[wide]) == self.batch_size:
                yield waiting[wide]
                waiting[wide] = []
