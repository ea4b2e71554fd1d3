"""Batches of crops and masks: endless and resumable for training, finite and fixed for validation."""

import logging
import math
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from eva02_det.utils.broken import BrokenImages, account_of_all
from eva02_det.utils.errors import UserError
from eva02_det.utils.sources.base import Source
from eva02_mim.batches import NEIGHBOURS, Asked, CropBatches, ImageBatches, Made, Masks, positions_of
from eva02_mim.crops import CentreCrop, Crop, RandomCrop
from eva02_mim.hidden import HiddenTokens, pack_hidden
from eva02_mim.masking import striped_mask
from eva02_mim.order import EpochOrder

log = logging.getLogger(__name__)

# Axes: B images of a rank's batch, S pixels of a side, K slots for hidden patches.
Batch = dict[str, Tensor]
Dataset = TypeVar("Dataset", bound=ImageBatches)


class MimLoader(Generic[Dataset]):
    """An endless iterator over shuffled epochs.

    A batch: images uint8 [B, 3, S, S]; index int64 [B, K] and weight float [B, K] of the hidden patches; sample int64 [B], the
    numbers of the images; visit int64 [B], how often each image's source was passed over before (the epoch, unless a mixture
    has weights). Crop and mask of an image depend on (seed, visit, sample) alone, so worker and rank counts change nothing.

    The images of an epoch that fill no whole global batch are left out. `epoch` and `offset` (images of that epoch used by all
    ranks) are the place after the last batch handed out, whatever the workers have prepared beyond it.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        broken: BrokenImages | None = None,
        pin_memory: bool | None = None,
        prefetch: int = 2,
    ) -> None:
        self.dataset, self.batch_size, self.rank, self.world, self.workers = dataset, batch_size, rank, world, workers
        self.order = EpochOrder(dataset.source.sizes, dataset.source.quotas, dataset.seed)
        self.broken = broken or BrokenImages()
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.prefetch = prefetch
        self.epoch, self.offset = 0, 0
        if self.steps_per_epoch < 1:
            raise UserError(
                f"an epoch of {len(self.order)} images does not fill one batch of {batch_size} x {world} processes; "
                "lower the batch size"
            )

    @property
    def images_per_epoch(self) -> int:
        """Images in an epoch, those included that fill no whole batch."""
        return len(self.order)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch that is begun at its start."""
        return len(self.order) // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the current place on."""
        places = _Places(self.order, self.batch_size, self.rank, self.world, self.epoch, self.offset)
        loader = _data_loader(self.dataset, places, self.workers, self.pin_memory, self.prefetch)
        following = _places(self.order, self.batch_size * self.world, self.epoch, self.offset)
        for made, (epoch, start) in zip(loader, following):
            _account(self.broken, made, self.batch_size)
            if epoch != self.epoch:
                log.info("epoch %d of the data is over; in this process %s", self.epoch, self.broken.summary())
            self.epoch, self.offset = epoch, start + self.batch_size * self.world
            yield made.batch

    def state_dict(self) -> dict[str, Any]:
        """The place after the last batch handed out, what the order depends on, and the account of unreadable images.

        The account is that of all processes together, so every one must call this.
        """
        place = {"epoch": self.epoch, "offset": self.offset, "broken": account_of_all(self.broken).state_dict()}
        return place | self._data()

    def _data(self) -> dict[str, Any]:
        """What a place depends on."""
        return {"seed": self.dataset.seed, "images": len(self.order), "digest": self.dataset.source.digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at a saved place, with any number of workers, ranks and images in a batch; UserError for other data or seed."""
        now = self._data()
        for key, what in (("seed", "seed"), ("images", "number of images"), ("digest", "list of images")):
            if state[key] != now[key]:
                raise UserError(
                    f"the saved place in the data does not fit: the {what} was {state[key]} and is {now[key]}; "
                    "resume with the same data and seed, or begin a new run from the saved weights"
                )
        self.epoch, self.offset = int(state["epoch"]), int(state["offset"])
        if self.rank == 0:  # the account of all goes on in one of them
            self.broken.load_state_dict(state["broken"])


class ValidationLoader(Generic[Dataset]):
    """Every image once, in order, each rank its own: rank r takes every `world`-th. The last batch may be smaller."""

    def __init__(self, dataset: Dataset, *, batch_size: int, rank: int, world: int, workers: int, broken: BrokenImages) -> None:
        self.dataset, self.batch_size, self.workers, self.broken = dataset, batch_size, workers, broken
        self.samples = np.arange(rank, len(dataset.source), world, dtype=np.int64)

    def __len__(self) -> int:
        return math.ceil(len(self.samples) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        self.broken.load_state_dict(BrokenImages().state_dict())  # a pass is counted for itself
        parts = [self.samples[start : start + self.batch_size] for start in range(0, len(self.samples), self.batch_size)]
        asked = [Asked(part, np.zeros_like(part)) for part in parts]
        for made, part in zip(_data_loader(self.dataset, asked, self.workers, torch.cuda.is_available(), 2), parts):
            _account(self.broken, made, len(part))
            if made.batch:
                yield made.batch


class _Places:
    """What the workers are asked for, batch after batch without end."""

    def __init__(self, order: EpochOrder, batch_size: int, rank: int, world: int, epoch: int, offset: int) -> None:
        self.order, self.batch_size, self.rank, self.world = order, batch_size, rank, world
        self.epoch, self.offset = epoch, offset

    def __iter__(self) -> Iterator[Asked]:
        for epoch, start in _places(self.order, self.batch_size * self.world, self.epoch, self.offset):
            yield Asked(*self.order.at(epoch, positions_of(start, self.batch_size, self.rank)))


def _places(order: EpochOrder, global_batch: int, epoch: int, offset: int) -> Iterator[tuple[int, int]]:
    """(epoch, first position) of one global batch after the other, from a place on."""
    while True:
        for start in range(offset, len(order) - global_batch + 1, global_batch):
            yield epoch, start
        epoch, offset = epoch + 1, 0


def _data_loader(dataset: ImageBatches, asked: Any, workers: int, pin_memory: bool, prefetch: int) -> DataLoader[Made]:
    return DataLoader(
        dataset,
        sampler=asked,
        batch_size=None,  # the dataset makes whole batches
        collate_fn=as_it_is,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=prefetch if workers else None,
        generator=torch.Generator(),  # the loader would draw a seed, which nobody uses, from the global one
    )


def as_it_is(made: Any) -> Any:
    """A collate function for what is a batch already."""
    return made


def _account(broken: BrokenImages, made: Made, asked: int) -> None:
    broken.add(asked, made.broken)
    if made.gave_up:
        raise UserError(
            f"more than {NEIGHBOURS} images in a row cannot be read, the last {made.gave_up}; check the disk of the images"
        )


def mim_loader(
    source: Source,
    *,
    batch_size: int,
    masks: Masks,
    image_size: int = 224,
    patch_size: int = 14,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    crop: Crop | None = None,
    fixed_crops: bool = False,
    max_broken: float = 0.01,
    pin_memory: bool | None = None,
    prefetch: int = 2,
) -> MimLoader[CropBatches]:
    """The training loader.

    batch_size: images of one rank. workers: processes of one rank. crop: `RandomCrop()` by default. fixed_crops: one crop an
    image for ever, as a cache of teacher features needs; masks still change. max_broken: share of unreadable images above
    which the run stops. prefetch: batches that a worker prepares in advance. Raises UserError for sizes that do not fit.
    """
    check_sizes(image_size, patch_size, masks.grid)
    dataset = CropBatches(
        source, crop=crop or RandomCrop(), masks=masks, image_size=image_size, seed=seed, fixed_crops=fixed_crops, replace=True
    )
    return MimLoader(
        dataset,
        batch_size=batch_size,
        rank=rank,
        world=world,
        workers=workers,
        broken=BrokenImages(max_broken),
        pin_memory=pin_memory,
        prefetch=prefetch,
    )


def validation_loader(
    source: Source,
    *,
    batch_size: int,
    image_size: int = 224,
    patch_size: int = 14,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    max_broken: float = 0.01,
) -> ValidationLoader[CropBatches]:
    """The validation loader: central crops, every second patch hidden; an unreadable image is counted and left out."""
    grid = check_sizes(image_size, patch_size)
    dataset = CropBatches(
        source, crop=CentreCrop(), masks=StripedMasks(grid), image_size=image_size, seed=0, fixed_crops=True, replace=False
    )
    return ValidationLoader(
        dataset, batch_size=batch_size, rank=rank, world=world, workers=workers, broken=BrokenImages(max_broken)
    )


class StripedMasks:
    """The same striped mask for every image."""

    def __init__(self, grid: int) -> None:
        self.grid = grid
        self._hidden = pack_hidden(striped_mask(grid))
        self.count = len(self._hidden.weight)

    def hidden(self, seed: int, epoch: int, index: int) -> HiddenTokens:
        """index [K], weight [K]; the numbers make no difference."""
        return self._hidden


def check_sizes(image_size: int, patch_size: int, grid: int | None = None) -> int:
    """Patches on a side of an image; UserError where the sizes do not fit each other or the masks' grid."""
    if image_size < patch_size or image_size % patch_size:
        raise UserError(f"image_size={image_size} is no multiple of patch_size={patch_size}; for example {patch_size * 16} is")
    if grid is not None and grid != image_size // patch_size:
        raise UserError(
            f"masks of {grid} x {grid} patches do not fit images of {image_size} px with patches of {patch_size} px; "
            f"set the grid of the masks to {image_size // patch_size}"
        )
    return image_size // patch_size
