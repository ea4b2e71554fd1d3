"""Teacher features of crops that stay the same, on disk and read through a memory map: for small sets and ablations.

Training crops are drawn anew in every epoch, so that a cache can serve fixed ones only. It says of each which crop it was
(source image, box, flip), and finds features by the pixels of the crop: never those of another one.

Axes: M crops of the cache, B images, N patches, D width of the features, S pixels of a side.

A folder holds `crops.npy` [M] (records of `CROP`), `features.npy` [M, N, D], for int8 also `scales.npy` [M, N], and `cache.json`,
which is written last: a folder without it is not complete. One crop of IN-21K takes 7.4 TB in fp16, 3.7 TB in int8.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_json
from eva02_mim.teacher import FrozenTeacher, fingerprint
from eva02_mim.towers import Rgb

logger = logging.getLogger(__name__)

# `box`: left, top, right, bottom in the source image, px, before the flip; `pixels`: digest of the crop
CROP = np.dtype([("sample", "<i8"), ("box", "<i4", (4,)), ("flip", "?"), ("mask_seed", "<i8"), ("pixels", "<u8")])
STORAGES = {"fp16": np.float16, "int8": np.int8}
VERSION = 1


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
    version: int = VERSION


class CacheWriter:
    """Computes and stores the features of `count` crops; use it as a context manager and `add` them batch by batch."""

    def __init__(self, folder: str | Path, teacher: FrozenTeacher, count: int, *, storage: str = "fp16") -> None:
        if storage not in STORAGES:
            raise UserError(f"storage={storage!r} of the feature cache is unknown; choose one of {', '.join(STORAGES)}")
        self.folder, self.teacher, self.count, self.storage = Path(folder), teacher, count, storage
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise UserError(f"folder {self.folder} is not empty; remove it or name another one for the feature cache")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._filled = 0
        self._crops = self._array("crops", CROP, (count,))
        self._features: np.memmap | None = None
        self._scales: np.memmap | None = None

    def _array(self, name: str, dtype: Any, shape: tuple[int, ...]) -> np.memmap:
        return np.lib.format.open_memmap(self.folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)

    def add(self, images: Tensor, crops: Sequence[CropRecord]) -> None:
        """uint8 [B, 3, S, S], and what each of them is."""
        if len(images) != len(crops) or self._filled + len(crops) > self.count:
            raise UserError(
                f"feature cache {self.folder} for {self.count} crops was given {len(images)} images and {len(crops)} crops after "
                f"{self._filled}; pass as many of both, and the right count"
            )
        features = self.teacher(images.to(self.teacher.device)).float().cpu().numpy()
        if not np.isfinite(features).all():
            raise UserError(f"teacher {self.teacher.name} gave features that are not finite; use dtype='bf16' or 'fp32' for it")
        if self._features is None:
            self._features = self._array("features", STORAGES[self.storage], (self.count, *features.shape[1:]))
            if self.storage == "int8":
                self._scales = self._array("scales", np.float32, (self.count, features.shape[1]))
        place = slice(self._filled, self._filled + len(crops))
        digests = pixel_digests(images)
        records = [(c.sample, c.box, c.flip, c.mask_seed, d) for c, d in zip(crops, digests)]
        self._crops[place] = np.array(records, dtype=CROP)
        if self._scales is None:
            largest = np.finfo(np.float16).max
            self._features[place] = features.clip(-largest, largest)
        else:
            self._features[place], self._scales[place] = quantised(features)
        self._filled = place.stop

    def __enter__(self) -> "CacheWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._finish()

    def _finish(self) -> None:
        if self._filled < self.count or self._features is None:
            raise UserError(f"feature cache {self.folder} got {self._filled} of its {self.count} crops; add all of them")
        for array in (self._crops, self._features, self._scales):
            if array is not None:
                array.flush()
        t = self.teacher
        description = Description(
            teacher=t.name,
            fingerprint=fingerprint(t),
            crops=crops_digest(self._crops),
            storage=self.storage,
            count=self.count,
            patches=self._features.shape[1],
            dim=t.dim,
            patch_size=t.patch_size,
            image_size=t.image_size,
            mean=t.mean,
            std=t.std,
            resize=t.resize,
        )
        write_json(self.folder / "cache.json", asdict(description), indent=1)
        size = sum(path.stat().st_size for path in self.folder.iterdir()) / 2**30
        logger.info("feature cache %s: %d crops, %.2f GiB", self.folder, self.count, size)


class CachedTeacher:
    """A teacher that looks features up instead of computing them: the crops of the cache in, their features [B, N, D] out.

    Args:
        folder: written by `CacheWriter`.
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
        self.records = self._mapped("crops", (d.count,))
        self._features = self._mapped("features", (d.count, d.patches, d.dim))
        self._scales = self._mapped("scales", (d.count, d.patches)) if d.storage == "int8" else None
        self._refuse_stale(teacher, crops)
        self._rows = {int(pixels): row for row, pixels in enumerate(self.records["pixels"])}

    def _mapped(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} of the feature cache is missing or damaged; write the cache again") from error
        if array.shape != shape:
            raise UserError(f"{path} is of shape {array.shape} where cache.json says {shape}; write the cache again")
        return array

    def _refuse_stale(self, teacher: nn.Module | None, crops: Sequence[CropRecord] | None) -> None:
        if crops_digest(self.records) != self.description.crops:
            raise UserError(f"{self.folder}/crops.npy is not the one that cache.json describes; write the cache again")
        if teacher is not None and fingerprint(teacher) != self.description.fingerprint:
            raise UserError(
                f"feature cache {self.folder} is of another teacher ({self.description.teacher}) or of this one in another "
                f"precision; write it again with this teacher, or use the one it is of"
            )
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
        digests = pixel_digests(images)
        unknown = [place for place, digest in enumerate(digests) if digest not in self._rows]
        if unknown:
            raise UserError(
                f"{len(unknown)} of {len(images)} crops (first: number {unknown[0]} of the batch) are not in feature cache "
                f"{self.folder}, which holds {self.description.count} fixed ones; fix the crops to those it was written with"
            )
        return self.features([self._rows[digest] for digest in digests])

    def features(self, rows: Sequence[int]) -> Tensor:
        """Features fp32 [B, N, D] of rows of the cache."""
        values = self._features[list(rows)].astype(np.float32)
        if self._scales is not None:
            values *= self._scales[list(rows)][..., None]
        return torch.from_numpy(values).to(self.device)


def read_description(folder: Path) -> Description:
    """The content of cache.json."""
    path = folder / "cache.json"
    if not path.is_file():
        raise UserError(f"folder {folder} holds no complete feature cache (no cache.json); write it, or pass another folder")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("version")
        content |= {"mean": tuple(content["mean"]), "std": tuple(content["std"])}
        description = Description(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the description of a feature cache; write the cache again") from error
    if version != VERSION:
        raise UserError(f"{path} is of version {version} and this package reads {VERSION}; write the cache again")
    return description


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
