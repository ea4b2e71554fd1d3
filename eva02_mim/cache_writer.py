"""Writes a cache of teacher features, shard by shard: a stopped filling goes on with the shards that are not there yet.

Axes: M crops of a shard, N patches, D width of the features.

While it is filled the folder holds `plan.json`, which says for what, and of every finished shard its features and, written last,
its records. At the end the records become one table, and `cache.json` takes the place of the plan.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from eva02_det.utils.errors import UserError
from eva02_det.utils.files import atomic_path, write_json
from eva02_mim.teacher import FrozenTeacher, fingerprint
from eva02_mim.teacher_cache import (
    CACHE,
    CROP,
    CROPS,
    STORAGES,
    CropRecord,
    Description,
    crops_digest,
    description_of,
    features_file,
    quantised,
    scales_file,
)

PLAN = "plan.json"
WORDS = {"fingerprint": "teacher: its weights or their precision differ", "data": "list of images", "count": "number of images"}
SHARD = 1024  # crops of a file: 0.5 GiB for the published teacher
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """Features as they are stored: values [M, N, D], and for int8 their scales [M, N]."""

    values: np.ndarray
    scales: np.ndarray | None = None


def plan_of(
    teacher: FrozenTeacher,
    count: int,
    *,
    storage: str = "fp16",
    shard: int = SHARD,
    data: str = "",
    seed: int = 0,
    crop: str = "",
) -> Description:
    """What a cache of `count` crops will say of itself. data: digest of the images; crop: how they are cut, in words."""
    if storage not in STORAGES:
        raise UserError(f"storage={storage!r} of the feature cache is unknown; choose one of {', '.join(STORAGES)}")
    if count < 1 or shard < 1:
        raise UserError(f"a feature cache of {count} crops in shards of {shard} cannot be; both must be at least 1")
    t = teacher
    return Description(
        teacher=t.name,
        fingerprint=fingerprint(t),
        crops="",
        storage=storage,
        count=count,
        patches=(t.image_size // t.patch_size) ** 2,
        dim=t.dim,
        patch_size=t.patch_size,
        image_size=t.image_size,
        mean=t.mean,
        std=t.std,
        resize=t.resize,
        shard=shard,
        data=data,
        seed=seed,
        crop=crop,
    )


def begin(folder: Path, plan: Description) -> list[int]:
    """Make the folder ready and return the shards that are missing; UserError where it holds something else or space is short."""
    _require_same(folder, plan)
    if (folder / CACHE).is_file():
        return []
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.glob(".*.part"):  # of a process that was killed
        part.unlink()
    missing = [number for number in range(plan.shards) if not _records_file(folder, number).is_file()]
    need, free = bytes_of(plan, missing), shutil.disk_usage(folder).free
    logger.info("%s", space(plan, folder, missing))
    if need > free:
        raise UserError(
            f"{space(plan, folder, missing)}, which is too little; free some, choose another folder, or --storage int8 for half "
            f"of fp16"
        )
    write_json(folder / PLAN, asdict(plan), indent=1)
    return missing


def space(plan: Description, folder: Path, missing: Sequence[int]) -> str:
    """What the cache takes and what there is, without a full stop."""
    width = np.dtype(STORAGES[plan.storage]).itemsize
    return (
        f"features of {plan.count:,} images x {plan.patches} patches x {plan.dim} x {width} bytes take "
        f"{in_words(bytes_of(plan, range(plan.shards)))}, {in_words(bytes_of(plan, missing))} of them still to be written, and "
        f"{folder} has {in_words(shutil.disk_usage(folder).free)} free"
    )


def bytes_of(plan: Description, shards: Sequence[int]) -> int:
    """On disk, of some shards."""
    patch = plan.dim * np.dtype(STORAGES[plan.storage]).itemsize + (4 if plan.storage == "int8" else 0)
    crops = sum(plan.rows(number) for number in shards)
    return crops * (plan.patches * patch + CROP.itemsize)


def encoded(features: np.ndarray, storage: str) -> Encoded:
    """fp32 [M, N, D] as `storage` keeps it."""
    if storage == "int8":
        return Encoded(*quantised(features))
    largest = np.finfo(np.float16).max
    return Encoded(features.clip(-largest, largest).astype(np.float16))


def write_shard(
    folder: Path, plan: Description, number: int, parts: Sequence[Encoded], crops: Sequence[CropRecord], digests: Sequence[int]
) -> None:
    """The features of one shard, in parts, what its crops are and the digests of their pixels."""
    values = np.concatenate([part.values for part in parts])
    expected = (plan.rows(number), plan.patches, plan.dim)
    if values.shape != expected or len(crops) != len(values) or len(digests) != len(values):
        raise UserError(
            f"shard {number} of feature cache {folder} is to be {expected} and was given features {values.shape} and "
            f"{len(crops)} crops; pass as many of both, from the teacher of the plan"
        )
    _save(folder / features_file(number), values)
    if plan.storage == "int8":
        _save(folder / scales_file(number), np.concatenate([part.scales for part in parts if part.scales is not None]))
    records = [(c.sample, c.box, c.flip, c.mask_seed, d) for c, d in zip(crops, digests)]
    _save(_records_file(folder, number), np.array(records, dtype=CROP))


def finish(folder: Path, plan: Description) -> None:
    """Join the records of all shards and describe the cache; UserError where a shard is missing."""
    if (folder / CACHE).is_file():
        return
    files = [_records_file(folder, number) for number in range(plan.shards)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(f"feature cache {folder} lacks {len(missing)} of its {plan.shards} shards ({missing[0]}); fill it again")
    records = np.concatenate([np.load(file) for file in files])
    _save(folder / CROPS, records)
    write_json(folder / CACHE, asdict(replace(plan, crops=crops_digest(records))), indent=1)
    for file in (*files, folder / PLAN):
        file.unlink(missing_ok=True)
    size = in_words(sum(path.stat().st_size for path in folder.iterdir()))
    logger.info("feature cache %s: %d crops, %s", folder, plan.count, size)


def in_words(size: int) -> str:
    """Bytes, as disks are sold: powers of 1000."""
    value, names = float(size), ("bytes", "kB", "MB", "GB", "TB", "PB")
    for name in names:
        if value < 1000 or name == names[-1]:
            return f"{value:.3g} {name}"
        value /= 1000
    raise AssertionError("unreachable")


def _require_same(folder: Path, plan: Description) -> None:
    """UserError where the folder holds anything but the beginning, or the whole, of this very cache."""
    for name in (CACHE, PLAN):
        if not (folder / name).is_file():
            continue
        there = description_of(folder / name)
        differing = [f.name for f in fields(plan) if f.name != "crops" and getattr(there, f.name) != getattr(plan, f.name)]
        if differing:
            key = "teacher" if "teacher" in differing else differing[0]
            raise UserError(
                f"feature cache {folder} is of another {WORDS.get(key, key)} ({getattr(there, key)} there, {getattr(plan, key)} "
                f"here); name another folder, or fill it with the settings that it was begun with"
            )
        return
    if folder.is_dir() and any(path for path in folder.iterdir() if not path.name.endswith(".part")):
        raise UserError(f"folder {folder} is not empty and holds no feature cache; remove it or name another one for the cache")


def _records_file(folder: Path, number: int) -> Path:
    return folder / f"crops-{number:06d}.npy"


def _save(target: Path, array: np.ndarray) -> None:
    with atomic_path(target) as path, path.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)

