"""What fine-tuning reads: class folders, timm's training transform as a crop, and endless batches with labels.

Axes: B images, S pixels of a side.
"""

import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from eva02_det.utils.broken import BrokenImages
from eva02_det.utils.errors import UserError
from eva02_det.utils.randomness import seeded
from eva02_mim.batches import ImageBatches
from eva02_mim.crops import Crop, Pixels
from eva02_mim.labelled import ClassFolder, class_folder
from eva02_mim.loader import MimLoader
from eva02_mim.normalise import CLIP_MEAN, CLIP_STD

SHOWN = 5  # names in a sentence


@dataclass(frozen=True)
class TrainCrop:
    """timm's training transform: random resized crop, flip, RandAugment; no mixing of images, no erasing (Tables 23-25).

    area: smallest and largest share of the image. augment: in timm's notation, None for none. The colour jitter that the
    released commands name is switched off by RandAugment, there and here.
    """

    area: tuple[float, float] = (0.08, 1.0)
    augment: str | None = "rand-m9-mstd0.5-inc1"
    flip: float = 0.5

    def __call__(self, image: Image.Image, side: int, rng: random.Random) -> Pixels:
        """RGB image -> uint8 [S, S, 3]."""
        transform = timm_transform(side, (self.area[0], self.area[1]), self.augment, self.flip)
        with seeded(rng.getrandbits(63)):  # timm draws from the global generators of Python, NumPy and torch
            made = transform(image)
        return np.ascontiguousarray(np.moveaxis(np.asarray(made), 0, -1))


@lru_cache(maxsize=8)
def timm_transform(side: int, area: tuple[float, float], augment: str | None, flip: float) -> Any:
    """RGB image -> uint8 [3, S, S]; the pixels are normalised later, on the device."""
    try:
        from timm.data import create_transform
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("fine-tuning augments with timm; run `pip install timm`") from error

    made = create_transform(
        side,
        is_training=True,
        use_prefetcher=True,  # leaves the pixels as they are
        scale=area,
        hflip=flip,
        auto_augment=augment,
        color_jitter=0.0,
        interpolation="bicubic",
        re_prob=0.0,
        mean=CLIP_MEAN,  # what RandAugment fills with
        std=CLIP_STD,
    )
    for step in made.transforms:
        for operation in getattr(step, "ops", ()):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = posterize
    return made


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """The highest `bits` of every channel. RandAugment asks for none of them at its largest magnitude: a black image.

    Earlier versions of Pillow gave that; newer ones refuse less than one bit, so that timm's own operation would end the run.
    """
    return image.point(lambda value: 0) if bits < 1 else ImageOps.posterize(image, min(bits, 8))


class ClassBatches(ImageBatches):
    """Crops and, as `label`, the class of the image that is shown."""

    def __init__(self, folder: ClassFolder, *, crop: Crop, image_size: int, seed: int) -> None:
        super().__init__(folder.source, crop=crop, image_size=image_size, seed=seed)
        self.folder = folder
        self.labels = torch.from_numpy(folder.labels)  # shared with the workers, not copied

    def extras(self, sample: int, visit: int, shown: int) -> dict[str, Tensor]:
        return {"label": self.labels[shown]}


def train_loader(
    folder: str | Path | ClassFolder,
    *,
    batch_size: int,
    image_size: int,
    crop: Crop | None = None,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    max_broken: float = 0.01,
) -> MimLoader[ClassBatches]:
    """Endless shuffled epochs of root/<class>/<image>: uint8 `images` [B, 3, S, S], `label` and `sample` [B].

    batch_size: images of one rank. crop: `TrainCrop()` by default. An image's crop depends on (seed, epoch, image) alone. An
    unreadable image is replaced by the next readable one, with the class of that; above the share max_broken the run stops.
    """
    found = folder if isinstance(folder, ClassFolder) else open_classes(folder)
    dataset = ClassBatches(found, crop=crop or TrainCrop(), image_size=image_size, seed=seed)
    broken = BrokenImages(max_broken)
    return MimLoader(dataset, batch_size=batch_size, rank=rank, world=world, workers=workers, broken=broken)


def open_classes(root: str | Path) -> ClassFolder:
    """Class folders to learn or to be scored on; every process of a job must call it.

    Raises:
        UserError: for no folder, images beside the class folders, class folders without an image, or one class only.
    """
    found = class_folder(root)
    empty = sorted({entry.name for entry in found.root.iterdir() if entry.is_dir()} - set(found.classes))
    if empty:
        raise UserError(f"{root} has class folders without an image: {_listed(empty)}; fill or remove them")
    if len(found.classes) < 2:
        raise UserError(f"{root} holds one class only, {found.classes[0]}; a classifier needs two class folders or more")
    return found


def require_same_classes(train: ClassFolder, validation: ClassFolder) -> None:
    """UserError that names the classes which only one of both has."""
    differing = [
        f"{_listed(only)} only in {one.root}"
        for one, other in ((train, validation), (validation, train))
        if (only := sorted(set(one.classes) - set(other.classes)))
    ]
    if differing:
        raise UserError(f"the classes of training and validation differ: {'; '.join(differing)}; give both the same folders")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
