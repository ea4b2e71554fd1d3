"""Loaders: a list of records (or a data set), a mapper and a sampler become batches."""

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch.utils import data

from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .samplers import InferenceSampler, TrainingSampler

Records = list[dict[str, Any]]
Mapper = Callable[[dict[str, Any]], Any]
Collate = Callable[[list[Any]], Any]


def filter_images_with_only_crowd_annotations(dataset_dicts: Records) -> Records:
    """The records that have at least one annotation of a single object."""
    kept = [
        record for record in dataset_dicts if any(not annotation.get("iscrowd", 0) for annotation in record["annotations"])
    ]
    logging.getLogger(__name__).info(
        "%d of %d images show nothing to learn from and are left out", len(dataset_dicts) - len(kept), len(dataset_dicts)
    )
    return kept


def get_detection_dataset_dicts(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
    check_consistency: bool = True,
) -> Records:
    """The records of one or several registered data sets, one after another.

    filter_empty: leave out images without a single object. check_consistency: data sets that are put together must
    have the same classes. Keypoints and proposal files exist only in the official detectron2.
    """
    if min_keypoints or proposal_files:
        raise NotImplementedError("keypoints and precomputed proposals need the official detectron2")
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise AssertionError("no data set is named")
    parts = {name: DatasetCatalog.get(name) for name in names}
    for name, part in parts.items():
        if not part:
            raise AssertionError(f"data set {name!r} is empty")
    records = list(chain.from_iterable(parts[name] for name in names))
    annotated = "annotations" in records[0]
    if filter_empty and annotated:
        records = filter_images_with_only_crowd_annotations(records)
    if check_consistency and annotated:
        _check_same_classes(names)
    if not records:
        raise AssertionError(f"no image of {', '.join(names)} has an annotated object")
    return records


def _check_same_classes(names: Sequence[str]) -> None:
    """Data sets that do not state their classes are passed over."""
    stated = {name: MetadataCatalog.get(name).get("thing_classes") for name in names}
    known = {name: classes for name, classes in stated.items() if classes is not None}
    for name, classes in known.items():
        if classes != known[next(iter(known))]:
            raise AssertionError(f"data sets {next(iter(known))!r} and {name!r} have different classes")


def build_detection_train_loader(
    dataset: Records | data.Dataset,
    *,
    mapper: Mapper | None,
    sampler: data.Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Collate | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> Iterable[list[Any]]:
    """An endless loader of training batches; each rank gets total_batch_size / world size items at a time.

    dataset: records, a map-style data set, or a stream that does its own sampling. aspect_ratio_grouping: needs "width" and
    "height" in the items. seed: of the workers and the default sampler; the same seed gives the same batches. kwargs: for
    the DataLoader.
    """
    dataset = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    dataset = MapDataset(dataset, mapper) if mapper is not None else dataset
    if isinstance(dataset, data.IterableDataset):
        if sampler is not None:
            raise AssertionError("a stream decides its own order, so it takes no sampler")
    elif sampler is None:
        sampler = TrainingSampler(len(dataset), seed=seed)  # type: ignore[arg-type]
    logging.getLogger(__name__).info("training images are chosen by %s", type(sampler).__name__)
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        seed=seed,
        **kwargs,
    )


def build_batch_data_loader(
    dataset: data.Dataset,
    sampler: data.Sampler | None,
    total_batch_size: int,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Collate | None = None,
    drop_last: bool = True,
    seed: int | None = None,
    **kwargs: Any,
) -> Iterable[list[Any]]:
    """Batches of this rank from a data set and a sampler (None for a stream)."""
    world_size = comm.get_world_size()
    batch_size, rest = divmod(total_batch_size, world_size)
    if rest or not batch_size:
        raise AssertionError(f"a total batch of {total_batch_size} cannot be dealt out evenly to {world_size} processes")
    common = {"num_workers": num_workers, "worker_init_fn": worker_init_reset_seed, **kwargs}
    if seed is not None:  # ranks must not draw the same augmentations
        common["generator"] = torch.Generator().manual_seed(seed + comm.get_rank())
    if sampler is not None:
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    if not aspect_ratio_grouping:
        collate = collate_fn or trivial_batch_collator
        return data.DataLoader(dataset, batch_size=batch_size, drop_last=drop_last, collate_fn=collate, **common)
    items = data.DataLoader(dataset, collate_fn=itemgetter(0), **common)  # workers read, the main process groups
    batches = AspectRatioGroupedDataset(items, batch_size)
    return batches if collate_fn is None else MapDataset(batches, collate_fn)  # type: ignore[return-value]


def build_detection_test_loader(
    dataset: Records | data.Dataset,
    *,
    mapper: Mapper | None,
    sampler: data.Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Collate | None = None,
) -> data.DataLoader:
    """A loader that shows every item once, dealt out to the ranks in consecutive pieces."""
    dataset = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    dataset = MapDataset(dataset, mapper) if mapper is not None else dataset
    if sampler is None and not isinstance(dataset, data.IterableDataset):
        sampler = InferenceSampler(len(dataset))  # type: ignore[arg-type]
    collate = collate_fn or trivial_batch_collator
    return data.DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=num_workers, collate_fn=collate)


def trivial_batch_collator(batch: list[Any]) -> list[Any]:
    """The items as they are: images differ in size."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed Python and NumPy in a worker from the seed that torch gave it, which differs between workers."""
    seed_all_rng(torch.initial_seed() % 2**31)
