"""Images with labels: folders of classes, the fixed crop of an evaluation, and batches that each image is in exactly once.

Axes: M images, B of them in a batch, S pixels of a side.
"""

import math
import os
import random
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from detectron2.utils import comm
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from eva02_det.utils.errors import UserError
from eva02_det.utils.randomness import key_of
from eva02_det.utils.sources.base import Source
from eva02_det.utils.sources.files import ImageFolder
from eva02_mim.batches import decoded, read
from eva02_mim.crops import CentreCrop, Crop, Pixels
from eva02_mim.order import Ints

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}


@dataclass(frozen=True)
class EvaluationCrop:
    """Shorter side to S / crop_ratio (rounded down), then the central S x S px: timm's evaluation, and the published one.

    border_px: what is cut off all round before that.
    """

    crop_ratio: float = 1.0
    interpolation: str = "bicubic"
    border_px: int = 0

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(f"interpolation={self.interpolation!r} is unknown; choose one of {', '.join(INTERPOLATIONS)}")
        if not 0 < self.crop_ratio <= 1:
            raise UserError(f"crop_ratio={self.crop_ratio} is no share of the shorter side; choose more than 0 and at most 1")

    def __call__(self, image: Image.Image, side: int, rng: random.Random) -> Pixels:
        """RGB image -> uint8 [S, S, 3]; draws nothing from `rng`."""
        if self.border_px:
            image = image.crop((self.border_px, self.border_px, image.width - self.border_px, image.height - self.border_px))
        shorter = math.floor(side / self.crop_ratio)
        return CentreCrop(shorter / side, INTERPOLATIONS[self.interpolation])(image, side, rng)


@dataclass(frozen=True)
class ClassFolder:
    """Images in class folders: root/class/.../image."""

    root: Path
    source: Source
    classes: tuple[str, ...]  # sorted names of the folders that hold images
    labels: Ints  # [M], places in `classes`


def class_folder(root: str | Path, *, cache: str | Path | None = None) -> ClassFolder:
    """The images below `root` and their classes, which its direct sub-folders are; UserError where it has none.

    Every process of a job must call it: the first one walks the folder.
    """
    root = Path(root).expanduser()
    source = ImageFolder(root, cache=cache)
    starts: dict[str, int] = {}
    first = 0
    while first < len(source):  # the images of a class follow each other, in the order of the classes: few names are read
        folder = _folder_of(source, first)
        starts[folder] = first
        first = bisect_right(range(len(source)), folder, lo=first, key=partial(_folder_of, source))
    counts = np.diff([*starts.values(), len(source)])
    return ClassFolder(root, source, tuple(starts), np.repeat(np.arange(len(starts)), counts))


def _folder_of(source: ImageFolder, number: int) -> str:
    """The direct sub-folder of the root that an image lies in."""
    folder, below, _ = os.fsdecode(source.names[number]).partition("/")
    if not below:
        raise UserError(f"{source.name(number)} lies in no class folder; {source.root} must hold one folder of images a class")
    return folder


class Cropped(NamedTuple):
    """A batch of crops."""

    images: Tensor  # uint8 [B, 3, S, S]
    places: Tensor  # int64 [B], in the list of numbers asked for
    problem: str  # why one of the images cannot be read; empty: all were


class CroppedImages(Dataset[Cropped]):
    """Batches of the images `numbers` of a source, in that order. `visit`: draws of a random crop differ from visit to visit."""

    def __init__(
        self, source: Source, numbers: Ints, crop: Crop, *, side: int, batch_size: int, seed: int = 0, visit: int = 0
    ) -> None:
        self.source, self.numbers, self.crop = source, numbers, crop
        self.side, self.batch_size, self.seed, self.visit = side, batch_size, seed, visit

    def __len__(self) -> int:
        return math.ceil(len(self.numbers) / self.batch_size)

    def __getitem__(self, batch: int) -> Cropped:
        first = batch * self.batch_size
        places = torch.arange(first, min(first + self.batch_size, len(self.numbers)))
        images = torch.empty(len(places), 3, self.side, self.side, dtype=torch.uint8)
        for row, number in enumerate(self.numbers[places.numpy()].tolist()):
            image = decoded(read(self.source, number))
            if isinstance(image, str):
                return Cropped(images, places, f"image {self.source.name(number)} cannot be read ({image}); repair or remove it")
            pixels = self.crop(image, self.side, random.Random(key_of("crop", self.seed, self.visit, number)))
            images[row] = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        return Cropped(images, places, "")


def batches_of(images: CroppedImages, *, workers: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """(uint8 images [B, 3, S, S] on the device, their places [B] on the host); UserError that names an unreadable image."""
    own = torch.Generator()  # the loader would draw a seed, which nobody uses, from the global one
    loader = DataLoader(images, batch_size=None, num_workers=workers, pin_memory=device.type == "cuda", generator=own)
    for batch in loader:
        if batch.problem:
            raise UserError(batch.problem)
        yield batch.images.to(device, non_blocking=True), batch.places


def my_share(count: int) -> Ints:
    """Places of this process's images among `count`: one contiguous part for each, sizes differing by one at most."""
    rank, world = comm.get_rank(), comm.get_world_size()
    return np.arange(count * rank // world, count * (rank + 1) // world, dtype=np.int64)
