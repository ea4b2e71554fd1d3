"""Fills a cache of teacher features with the fixed crops of a data set: one crop of every image, the same in every epoch."""

import copy
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from eva02_det.utils.errors import UserError
from eva02_mim.batches import Asked, CropBatches
from eva02_mim.crops import Crop, Pixels, RandomCrop
from eva02_mim.teacher import FrozenTeacher
from eva02_mim.teacher_cache import CachedTeacher, CacheWriter, CropRecord


class NotedCrop:
    """A crop that also notes the box it took and whether it flipped it."""

    def __init__(self, crop: Crop) -> None:
        self.crop = crop
        self.notes: list[tuple[tuple[int, int, int, int], bool]] = []

    def __call__(self, image: Image.Image, side: int, rng: random.Random) -> Pixels:
        """RGB image -> uint8 [S, S, 3], the very ones of the crop inside."""
        self.notes.append(self._note(image, rng))
        return self.crop(image, side, rng)

    def _note(self, image: Image.Image, rng: random.Random) -> tuple[tuple[int, int, int, int], bool]:
        """What the crop is about to draw; the box as it lies in the image before the flip. Other crops: the whole image."""
        if not isinstance(self.crop, RandomCrop):
            return (0, 0, *image.size), False
        ahead = random.Random()
        ahead.setstate(rng.getstate())
        flipped = ahead.random() < self.crop.flip
        left, top, right, bottom = self.crop.box(*image.size, ahead)
        return ((image.width - right, top, image.width - left, bottom) if flipped else (left, top, right, bottom)), flipped


class _NotedBatches(Dataset[tuple[Tensor, list[CropRecord]]]):
    """Batches of all images in order, with what each crop is."""

    def __init__(self, batches: CropBatches, batch_size: int) -> None:
        self.noted = NotedCrop(batches.crop)
        self.batches, self.batch_size = copy.copy(batches), batch_size
        self.batches.crop = self.noted

    def __len__(self) -> int:
        return math.ceil(len(self.batches.source) / self.batch_size)

    def __getitem__(self, number: int) -> tuple[Tensor, list[CropRecord]]:
        first = number * self.batch_size
        samples = np.arange(first, min(first + self.batch_size, len(self.batches.source)), dtype=np.int64)
        self.noted.notes.clear()
        made = self.batches[Asked(samples, np.zeros_like(samples))]
        if made.gave_up:
            raise UserError(f"no image near number {first} can be read ({made.gave_up}); repair the data, then fill the cache")
        records = [CropRecord(sample, *note, self.batches.seed) for sample, note in zip(samples.tolist(), self.noted.notes)]
        return made.batch["images"], records


def fill_cache(
    folder: str | Path,
    teacher: FrozenTeacher,
    batches: CropBatches,
    *,
    batch_size: int = 64,
    workers: int = 0,
    storage: str = "fp16",
) -> CachedTeacher:
    """The features of every image's one crop, written to `folder`; train with the same data, seed and `fixed_crops=True`.

    Raises:
        UserError: for batches whose crops change from epoch to epoch, or images that no neighbour can replace.
    """
    if not batches.fixed_crops:
        raise UserError("the crops of these batches change from epoch to epoch, which no cache can follow; set fixed_crops=True")
    if not batches.replace:
        raise UserError("these batches leave unreadable images out, and a cache has a place for each; set replace=True")
    noted: Iterator[Any] = iter(DataLoader(_NotedBatches(batches, batch_size), batch_size=None, num_workers=workers))
    with CacheWriter(folder, teacher, len(batches.source), storage=storage) as writer:
        for images, records in noted:
            writer.add(images, records)
    return CachedTeacher(folder)
