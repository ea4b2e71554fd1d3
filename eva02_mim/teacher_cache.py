"""Teacher features of crops that stay the same, on disk and read through a memory map: for small sets and ablations.

Training crops are drawn anew in every epoch, so that a cache can serve fixed ones only. It says of each which crop it was
(source image, box, flip), and finds features by the pixels of the crop: never those of another one.

Axes: M crops of the cache, B images, N patches, D width of the features, S pixels of a side.

A folder holds `crops.npy` [M] (records of `CROP`), shards `features-*.npy` of so many crops each, [., N, D], for int8 also
`scales-*.npy` [., N], and `cache.json`, which is written last: a folder without it is not complete. One crop of each image of
IN-21K takes 7.4 TB in fp16, 3.7 TB in int8. `eva02_mim.cache_writer` writes it.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eva02_det.utils.errors import UserError
from eva02_mim.teacher import fingerprint
from eva02_mim.towers import Rgb

# `box`: left, top, right, bottom in the source image, px, before the flip; `pixels`: digest of the crop
CROP = np.dtype([("sample", "<i8"), ("box", "<i4", (4,)), ("flip", "?"), ("mask_seed", "<i8"), ("pixels", "<u8")])
STORAGES = {"fp16": np.float16, "int8": np.int8}
VERSION = 2  # 1: one file of features
CACHE, CROPS = "cache.json", "crops.npy"
OPEN = 256  # shards mapped at a time


@dataclass(frozen=True)
class CropRecord:
    """How a crop was cut out of its source image, and the seed of its mask."""

    sample: int
    box: tuple[int, int, int, int]  # left, top, right, bottom; px
    flip: bool
    mask_seed: int


@dataclass(frozen=True)
class Description:
    """What a cache holds; the content of cache.json."""

    teacher: str
    fingerprint: str  # of the teacher's weights
    crops: str  # digest of the records
    storage: str
    count: int
    patches: int
    dim: int
    patch_size: int
    image_size: int
    mean: Rgb
    std: Rgb
    resize: bool
    shard: int  # crops in a file, fewer in the last one
    data: str  # digest of the list of images
    seed: int
    crop: str  # how crops are drawn
    version: int = VERSION

    @property
    def shards(self) -> int:
        """Files of features."""
        return math.ceil(self.count / self.shard)

    def rows(self, number: int) -> int:
        """Crops in shard `number`."""
        return min(self.shard, self.count - number * self.shard)


class CachedTeacher:
    """A teacher that looks features up instead of computing them: the crops of the cache in, their features [B, N, D] out.

    Args:
        folder: written by tools/cache_teacher.py.
        teacher: where given, the cache must be of these very weights.
        crops: where given, the cache must hold exactly these crops, in this order.

    Raises:
        UserError: for a folder that is no complete cache, or one of another teacher or other crops; later for a crop that is
            not in it.
    """

    computes = False  # it knows no features but those of its crops

    def __init__(
        self,
        folder: str | Path,
        *,
        teacher: nn.Module | None = None,
        crops: Sequence[CropRecord] | None = None,
        device: str = "cpu",
    ) -> None:
        self.folder = Path(folder)
        self.description = d = read_description(self.folder)
        self.name, self.device = f"{d.teacher}, cached in {self.folder}", torch.device(device)
        self.dim, self.patch_size, self.image_size = d.dim, d.patch_size, d.image_size
        self.mean, self.std, self.resize = d.mean, d.std, d.resize
        self.records = self._mapped(CROPS, (d.count,))
        missing = [name for number in range(d.shards) if not (self.folder / (name := features_file(number))).is_file()]
        if missing:
            raise UserError(f"feature cache {self.folder} lacks {len(missing)} files, first {missing[0]}; write the cache again")
        self._refuse_stale(crops)
        if teacher is not None:
            self.require_teacher(teacher)
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None  # rows by their digests, which crops are found by
        self._shard = lru_cache(OPEN)(self._open)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is mapped, which a worker process maps for itself."""
        return {key: value for key, value in self.__dict__.items() if key not in ("records", "_sorted", "_shard")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.records = self._mapped(CROPS, (self.description.count,))
        self._sorted, self._shard = None, lru_cache(OPEN)(self._open)

    def _open(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Values [M, N, D] and scales [M, N] of a shard."""
        d = self.description
        shape = (d.rows(number), d.patches, d.dim)
        scales = self._mapped(scales_file(number), shape[:2]) if d.storage == "int8" else None
        return self._mapped(features_file(number), shape), scales

    def _mapped(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        path = self.folder / name
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} of the feature cache is missing or damaged; write the cache again") from error
        if array.shape != shape:
            raise UserError(f"{path} is of shape {array.shape} where cache.json says {shape}; write the cache again")
        return array

    def require_teacher(self, teacher: nn.Module) -> None:
        """UserError unless the cache is of these very weights."""
        if fingerprint(teacher) != self.description.fingerprint:
            raise UserError(
                f"feature cache {self.folder} is of another teacher ({self.description.teacher}) or of this one in another "
                f"precision; write it again with this teacher, or use the one it is of"
            )

    def _refuse_stale(self, crops: Sequence[CropRecord] | None) -> None:
        if crops_digest(self.records) != self.description.crops:
            raise UserError(f"{self.folder}/crops.npy is not the one that cache.json describes; write the cache again")
        if crops is not None and self.crops() != list(crops):
            raise UserError(
                f"feature cache {self.folder} is of other crops ({self.description.count}, the first {self.crops(1)[0]}); write "
                f"it again for these, or use the images and the seed that it was written with"
            )

    def crops(self, count: int | None = None) -> list[CropRecord]:
        """What the first `count` crops are; None: all."""
        rows = self.records[:count]
        boxes = [tuple(box) for box in rows["box"].tolist()]
        return [
            CropRecord(*crop) for crop in zip(rows["sample"].tolist(), boxes, rows["flip"].tolist(), rows["mask_seed"].tolist())
        ]

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 crops [B, 3, S, S] of the cache, in any order -> fp32 [B, N, D]."""
        if images.dtype != torch.uint8:
            raise UserError(f"feature cache {self.folder} finds crops by their bytes; pass uint8 images, not {images.dtype}")
        digests = np.array(pixel_digests(images), dtype=np.uint64)
        if self._sorted is None:
            order = np.argsort(self.records["pixels"], kind="stable")
            self._sorted = order, self.records["pixels"][order]
        order, known = self._sorted
        place = np.minimum(np.searchsorted(known, digests), len(known) - 1)
        unknown = np.flatnonzero(known[place] != digests)
        if len(unknown):
            raise UserError(
                f"{len(unknown)} of {len(images)} crops (first: number {unknown[0]} of the batch) are not in feature cache "
                f"{self.folder}, which holds {self.description.count} fixed ones; fix the crops to those it was written with"
            )
        return torch.from_numpy(self.features(order[place].tolist())).to(self.device)

    def features(self, rows: Sequence[int]) -> np.ndarray:
        """Features fp32 [B, N, D] of rows of the cache."""
        return np.stack([self._row(row, slice(None)) for row in rows])

    def features_at(self, rows: Sequence[int], images: Tensor, index: Tensor) -> Tensor:
        """Features fp16 [B, K, D] of the patches `index` [B, K] of known rows, whose crops `images` must be."""
        for row, digest in zip(rows, pixel_digests(images)):
            if int(self.records["pixels"][row]) != digest:
                raise UserError(
                    f"the crop of image {row} is not the one that feature cache {self.folder} is of; the image file changed, or "
                    f"another version of Pillow decodes it: fill the cache again"
                )
        return torch.from_numpy(np.stack([self._row(row, at.numpy()) for row, at in zip(rows, index)]).astype(np.float16))

    def _row(self, row: int, patches: Any) -> np.ndarray:
        values, scales = self._shard(row // self.description.shard)
        within = row % self.description.shard
        features = values[within][patches].astype(np.float32)
        return features if scales is None else features * scales[within][patches][:, None]


def features_file(number: int) -> str:
    return f"features-{number:06d}.npy"


def scales_file(number: int) -> str:
    return f"scales-{number:06d}.npy"


def read_description(folder: Path) -> Description:
    """The content of cache.json."""
    if not (folder / CACHE).is_file():
        raise UserError(
            f"folder {folder} holds no complete feature cache (no cache.json); fill it with tools/cache_teacher.py, which goes "
            f"on where it was stopped, or pass another folder"
        )
    return description_of(folder / CACHE)


def description_of(path: Path) -> Description:
    """What a file of the form of cache.json says."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("version")
        if version == VERSION:
            return Description(**content | {"mean": tuple(content["mean"]), "std": tuple(content["std"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the description of a feature cache; write the cache again") from error
    raise UserError(f"{path} is of version {version} and this package reads {VERSION}; write the cache again")


def pixel_digests(images: Tensor) -> list[int]:
    """64-bit digests of uint8 images [B, 3, S, S]; two of 14 million differing ones agree with a chance of 5e-6."""
    arrays = images.cpu().contiguous().numpy()
    return [int.from_bytes(hashlib.blake2b(image.data, digest_size=8).digest(), "little") for image in arrays]


def crops_digest(records: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(records).tobytes()).hexdigest()


def quantised(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[B, N, D] -> int8 [B, N, D] and fp32 scales [B, N], one for each patch: its largest magnitude becomes 127."""
    scales = np.abs(features).max(-1) / 127
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    return np.rint(features / scales[..., None]).astype(np.int8), scales
