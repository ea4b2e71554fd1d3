"""Fills a cache of teacher features with the fixed crops of a data set: one crop of every image, the same in every epoch."""

import copy
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import instantiate
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from eva02_det.utils.broken import BrokenImages, account_of_all
from eva02_det.utils.errors import UserError
from eva02_det.utils.processes import in_all, on_main
from eva02_mim import build
from eva02_mim.batches import Asked, CropBatches
from eva02_mim.cache_writer import SHARD, Encoded, begin, encoded, finish, plan_of, write_shard
from eva02_mim.cached_targets import check_fixed, crop_words
from eva02_mim.crops import Crop, Pixels, RandomCrop
from eva02_mim.loader import as_it_is
from eva02_mim.order import Ints
from eva02_mim.teacher import FrozenTeacher
from eva02_mim.teacher_cache import CachedTeacher, CropRecord, Description, pixel_digests

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class _Part:
    """Some images of one shard."""

    shard: int
    samples: Ints
    last: bool  # of the shard


class _NotedBatches(Dataset[tuple[_Part, Tensor, list[CropRecord], list[str]]]):
    """The images of given parts, with what each crop is and which images were unreadable."""

    def __init__(self, batches: CropBatches, parts: Sequence[_Part]) -> None:
        self.noted = NotedCrop(batches.crop)
        self.batches, self.parts = copy.copy(batches), parts
        self.batches.crop = self.noted

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> tuple[_Part, Tensor, list[CropRecord], list[str]]:
        part = self.parts[number]
        self.noted.notes.clear()
        made = self.batches[Asked(part.samples, np.zeros_like(part.samples))]
        if made.gave_up:
            first = int(part.samples[0])
            raise UserError(f"no image near number {first} can be read ({made.gave_up}); repair the data, then fill the cache")
        records = [CropRecord(sample, *note, self.batches.seed) for sample, note in zip(part.samples.tolist(), self.noted.notes)]
        return part, made.batch["images"], records, made.broken


def fill_cache(
    folder: str | Path,
    teacher: FrozenTeacher,
    batches: CropBatches,
    *,
    batch_size: int = 64,
    workers: int = 0,
    storage: str = "fp16",
    shard: int = SHARD,
    broken: BrokenImages | None = None,
) -> CachedTeacher:
    """The features of every image's one crop, written to `folder`; train with the same data, seed and `fixed_crops=True`.

    Every process of the job calls this and writes the shards of its turn. A filling that was stopped goes on with what is
    missing when it is called again with the same arguments, in any number of processes; the result is the same.

    Raises:
        UserError: in all processes, for batches whose crops change from epoch to epoch, a folder of something else, too little
            space, and images that no neighbour can replace.
    """
    folder, broken = Path(folder), broken or BrokenImages()
    check_fixed(batches)
    plan = plan_for(teacher, batches, storage=storage, shard=shard)
    missing = on_main(lambda: begin(folder, plan))
    mine = missing[comm.get_rank() :: comm.get_world_size()]
    in_all(lambda: _write(folder, plan, teacher, batches, mine, batch_size=batch_size, workers=workers, broken=broken))
    on_main(lambda: finish(folder, plan))
    logger.info("%s", account_of_all(broken).summary())
    return CachedTeacher(folder)


def fill_from(config: DictConfig, folder: str | Path, **options: Any) -> CachedTeacher:
    """`fill_cache` with teacher, images, crops and seed of a pre-training config, logged; every process calls it."""
    setup_logger(distributed_rank=comm.get_rank(), name="eva02_mim")
    config.dataloader.train.update({"fixed_crops": True, "batch_size": 1, "seed": config.train.seed, "workers": 0})
    loader = instantiate(config.dataloader.train)
    teacher = build.build_teacher(config, build.device_of(config))
    if not isinstance(teacher, FrozenTeacher):
        raise UserError(f"the config's teacher is a {type(teacher).__name__}, whose features are not computed; name a network")
    return fill_cache(folder, teacher, loader.dataset, broken=loader.broken, **options)


def plan_for(teacher: FrozenTeacher, batches: CropBatches, *, storage: str = "fp16", shard: int = SHARD) -> Description:
    """What a cache of these crops says of itself."""
    count, digest = len(batches.source), batches.source.digest
    return plan_of(
        teacher, count, storage=storage, shard=shard, data=digest, seed=batches.seed, crop=crop_words(batches)
    )


def _write(
    folder: Path,
    plan: Description,
    teacher: FrozenTeacher,
    batches: CropBatches,
    shards: Sequence[int],
    *,
    batch_size: int,
    workers: int,
    broken: BrokenImages,
) -> None:
    parts = [part for number in shards for part in _parts(plan, number, batch_size)]
    done, since = 0, time.perf_counter()
    encodings: list[Encoded] = []
    records: list[CropRecord] = []
    digests: list[int] = []
    loader = DataLoader(_NotedBatches(batches, parts), batch_size=None, num_workers=workers, collate_fn=as_it_is)
    for part, images, crops, unreadable in loader:
        broken.add(len(images), unreadable)
        encodings.append(encoded(_features(teacher, images), plan.storage))
        records += crops
        digests += pixel_digests(images)
        if part.last:
            write_shard(folder, plan, part.shard, encodings, records, digests)
            done += 1
            left = (time.perf_counter() - since) / done * (len(shards) - done)
            logger.info("%d of %d shards of this process, left %s", done, len(shards), timedelta(seconds=round(left)))
            encodings, records, digests = [], [], []


def _parts(plan: Description, number: int, batch_size: int) -> list[_Part]:
    """A shard in batches; they begin anew in each, so that a filling that goes on computes the same batches."""
    first, end = number * plan.shard, number * plan.shard + plan.rows(number)
    starts = range(first, end, batch_size)
    ends = [min(start + batch_size, end) for start in starts]
    return [_Part(number, np.arange(start, stop, dtype=np.int64), stop == end) for start, stop in zip(starts, ends)]


def _features(teacher: FrozenTeacher, images: Tensor) -> np.ndarray:
    features = teacher(images.to(teacher.device)).float().cpu().numpy()
    if not np.isfinite(features).all():
        raise UserError(f"teacher {teacher.name} gave features that are not finite; use dtype='bf16' or 'fp32' for it")
    return features
