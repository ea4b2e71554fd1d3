"""What a worker process does: reads, decodes, crops and masks the images of one batch, and tells which were unreadable."""

import os
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from eva02_det.utils.randomness import key_of
from eva02_det.utils.sources import remote
from eva02_det.utils.sources.base import Source
from eva02_mim.crops import Crop, decode
from eva02_mim.order import Ints

# Axes: B images, S pixels of a side, K slots for hidden patches.
READ_AHEAD = 8  # images that are read while one is decoded
NEIGHBOURS = 100  # tried in a row after an unreadable image before the batch is given up


class Masks(Protocol):
    """Draws the hidden patches of an image from three numbers."""

    grid: int
    count: int  # patches of an image that are hidden, at most

    def hidden(self, seed: int, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """index [K] int64, weight [K] float, K always the same."""


class Asked(NamedTuple):
    """The images of a batch: sample numbers and visits, [B] each."""

    samples: Ints
    visits: Ints


class Made(NamedTuple):
    """A batch, and "name: reason" of the images asked for that were unreadable; gave_up: of the last neighbour tried."""

    batch: dict[str, Tensor]
    broken: list[str]
    gave_up: str = ""


class ImageBatches(Dataset[Made], ABC):
    """Batches by what is asked for. The same numbers give the same crops and extras in whatever process, batch or order.

    replace: an unreadable image makes room for the next readable one in the order of the source, cropped as the one it stands
    for; else it is left out and the batch is smaller.
    """

    def __init__(
        self, source: Source, *, crop: Crop, image_size: int, seed: int, fixed_crops: bool = False, replace: bool = True
    ) -> None:
        self.source, self.crop = source, crop
        self.image_size, self.seed, self.fixed_crops, self.replace = image_size, seed, fixed_crops, replace
        self._readers: tuple[int, ThreadPoolExecutor] | None = None  # (process, its threads)

    @abstractmethod
    def extras(self, sample: int, visit: int, shown: int) -> dict[str, Tensor]:
        """What goes with a crop. shown: the image it was cut from, another one than the sample where that was unreadable."""

    def __getitem__(self, asked: Asked) -> Made:
        side, total = self.image_size, len(asked.samples)
        images = torch.empty(total, side, side, 3, dtype=torch.uint8)
        broken: list[str] = []
        kept: list[int] = []
        extras: list[dict[str, Tensor]] = []
        for place, (sample, visit, content) in enumerate(
            zip(asked.samples.tolist(), asked.visits.tolist(), self._contents(asked.samples.tolist()))
        ):
            image, shown = decoded(content), sample
            if isinstance(image, str):
                broken.append(f"{self.source.name(sample)}: {image}")
                if not self.replace:
                    continue
                image, shown = self._neighbour(sample)
                if isinstance(image, str):
                    return Made({}, broken, gave_up=image)
            rng = random.Random(key_of("crop", self.seed, 0 if self.fixed_crops else visit, sample))
            images[len(kept)] = torch.from_numpy(self.crop(image, side, rng).copy())
            extras.append(self.extras(sample, visit, shown))
            kept.append(place)
        return Made(self._joined(images[: len(kept)], extras, asked, kept), broken)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": None}

    def _contents(self, samples: list[int]) -> Iterator[bytes | str]:
        """What `read` gives for each sample; the next few are being read meanwhile, which hides the latency of the storage."""
        if self._readers is None or self._readers[0] != os.getpid():  # threads do not follow into a forked process
            self._readers = os.getpid(), ThreadPoolExecutor(READ_AHEAD)
        coming = iter(samples)
        ahead = deque(self._readers[1].submit(read, self.source, sample) for sample in islice(coming, READ_AHEAD))
        while ahead:
            content = ahead.popleft().result()
            ahead.extend(self._readers[1].submit(read, self.source, sample) for sample in islice(coming, 1))
            yield content

    def _joined(self, images: Tensor, extras: list[dict[str, Tensor]], asked: Asked, kept: list[int]) -> dict[str, Tensor]:
        """images [B, S, S, 3] and the rest as the tensors of a batch; made anew, so that it can be pinned or shared."""
        if not kept:
            return {}
        return {
            "images": images.permute(0, 3, 1, 2).contiguous(),
            **{key: torch.stack([extra[key] for extra in extras]) for key in extras[0]},
            "sample": torch.from_numpy(asked.samples[kept]),
            "visit": torch.from_numpy(asked.visits[kept]),
        }

    def _neighbour(self, sample: int) -> tuple[Image.Image | str, int]:
        """The first readable image after one, else why the last tried is none, and its number. Each is counted in its turn."""
        for step in range(1, NEIGHBOURS + 1):
            number = (sample + step) % len(self.source)
            found = decoded(read(self.source, number))
            if isinstance(found, Image.Image):
                return found, number
        return f"{self.source.name(number)}: {found}", number


class CropBatches(ImageBatches):
    """Crops and, as `index` and `weight`, the patches of each that are hidden; a replaced image keeps the mask of its place."""

    def __init__(
        self,
        source: Source,
        *,
        crop: Crop,
        masks: Masks,
        image_size: int,
        seed: int,
        fixed_crops: bool = False,
        replace: bool = True,
    ) -> None:
        super().__init__(source, crop=crop, image_size=image_size, seed=seed, fixed_crops=fixed_crops, replace=replace)
        self.masks = masks

    def extras(self, sample: int, visit: int, shown: int) -> dict[str, Tensor]:
        index, weight = self.masks.hidden(self.seed, visit, sample)
        return {"index": torch.as_tensor(index), "weight": torch.as_tensor(weight)}


def read(source: Source, number: int) -> bytes | str:
    """The encoded image, or why there is none: storages raise many kinds of errors for the same fact."""
    try:
        return source[number]
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  counted, named and limited by BrokenImages
        return f"{type(error).__name__}: {remote.reason(error)}"


def decoded(content: bytes | str) -> Image.Image | str:
    """The image in RGB, or why there is none; a text from `read` is passed on."""
    try:
        return content if isinstance(content, str) else decode(content)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  decoders too raise whatever they like
        return f"{type(error).__name__}: {remote.reason(error)}"


def positions_of(start: int, batch_size: int, rank: int) -> Ints:
    """Positions in an epoch of a rank's part of the global batch that begins at `start`. int64 [B]."""
    first = start + rank * batch_size
    return np.arange(first, first + batch_size, dtype=np.int64)
