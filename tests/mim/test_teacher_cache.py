"""A cache gives the features of exactly the crops and the teacher that it is of, or refuses."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from eva02_det.utils.errors import UserError
from eva02_mim.cache_writer import begin, encoded, finish, plan_of, write_shard
from eva02_mim.teacher import SeededTeacher, check_teacher
from eva02_mim.teacher_cache import CachedTeacher, CropRecord, pixel_digests

COUNT, SIDE = 10, 56


def teacher(**options: int) -> SeededTeacher:
    return SeededTeacher(24, **{"image_size": SIDE, **options})


def crops(count: int = COUNT, seed: int = 0) -> tuple[Tensor, list[CropRecord]]:
    draw = random.Random(seed)
    records = [
        CropRecord(sample=10**12 + k, box=(k, 2 * k, 100 + k, 90 + k), flip=draw.random() < 0.5, mask_seed=draw.getrandbits(62))
        for k in range(count)
    ]
    pixels = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return pixels, records


def write(folder: Path, of: SeededTeacher, count: int = COUNT, storage: str = "fp16", shard: int = 4, stop: int = 99) -> Path:
    """A cache of the first crops, given up after `stop` shards."""
    images, records = crops(count)
    plan = plan_of(of, count, storage=storage, shard=shard)
    begin(folder, plan)
    for number in range(min(plan.shards, stop)):
        part = slice(number * shard, (number + 1) * shard)
        features = encoded(of(images[part]).float().numpy(), storage)
        write_shard(folder, plan, number, [features], records[part], pixel_digests(images[part]))
    finish(folder, plan)
    return folder


def written(folder: Path, storage: str = "fp16", **options: int) -> Path:
    return write(folder, teacher(**options), storage=storage)


@pytest.mark.parametrize(("storage", "off"), [("fp16", 1e-6), ("int8", 1e-3)])
def test_features_come_back_for_crops_in_any_order(storage: str, off: float, tmp_path: Path) -> None:
    cached = CachedTeacher(written(tmp_path / "cache", storage), teacher=teacher())
    images, records = crops()
    order = [7, 0, 7, 9, 3]
    expected = teacher()(images[order])
    found = cached(images[order])
    assert found.shape == expected.shape
    assert torch.cosine_similarity(found, expected, dim=-1).min() > 1 - off
    torch.testing.assert_close(found, expected, rtol=0, atol=float(expected.abs().max()) * (6e-4 if off < 1e-4 else 5e-3))
    assert cached.crops() == records, "box, flip and mask seed are kept"
    check_teacher(cached, target_dim=24, image_size=SIDE, patch_size=14)


def test_the_arrays_are_mapped_and_of_the_size_of_their_storage(tmp_path: Path) -> None:
    for storage, width in (("fp16", 2), ("int8", 1)):
        folder = written(tmp_path / storage, storage)
        assert isinstance(CachedTeacher(folder)._open(0)[0], np.memmap)
        header = 128
        sizes = [file.stat().st_size for file in sorted(folder.glob("features-*.npy"))]
        assert sizes == [header + rows * 16 * 24 * width for rows in (4, 4, 2)]


def test_targets_that_are_all_zero_or_larger_than_half_precision_stay_finite(tmp_path: Path) -> None:
    loud = teacher()
    with torch.no_grad():
        loud.projection.weight.mul_(1e6)
        loud.projection.bias.zero_()
    images, _ = crops(2)
    for storage in ("fp16", "int8"):
        assert CachedTeacher(write(tmp_path / storage, loud, 2, storage))(images).isfinite().all()
    with torch.no_grad():
        loud.projection.weight.zero_()
    assert torch.equal(CachedTeacher(write(tmp_path / "zero", loud, 2, "int8"))(images), torch.zeros(2, 16, 24))


def test_a_cache_of_another_teacher_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "cache")
    with pytest.raises(UserError, match=r"is of another teacher \(seeded ViT 0\) or of this one in another precision; write it"):
        CachedTeacher(folder, teacher=teacher(seed=1))
    with pytest.raises(UserError, match="of another teacher"):
        CachedTeacher(folder, teacher=SeededTeacher(24, image_size=SIDE, dtype="bf16"))


def test_a_cache_of_other_crops_is_refused_at_the_start_and_at_the_first_unknown_crop(tmp_path: Path) -> None:
    folder = written(tmp_path / "cache")
    images, records = crops()
    assert CachedTeacher(folder, crops=records).dim == 24
    for others in (records[:-1], records[::-1], crops(seed=1)[1]):
        with pytest.raises(UserError, match="is of other crops"):
            CachedTeacher(folder, crops=others)
    cached = CachedTeacher(folder)
    images[3, 2, -1, -1] ^= 1
    with pytest.raises(
        UserError, match=r"1 of 10 crops \(first: number 3 of the batch\) are not in feature cache .* fix the crops"
    ):
        cached(images)
    with pytest.raises(UserError, match=r"pass uint8 images, not torch\.float32"):
        cached(images.float())


def test_a_cache_that_was_not_finished_or_was_changed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lacks 2 of its 3 shards \(crops-000001\.npy\); fill it again"):
        write(tmp_path / "begun", teacher(), stop=1)
    for folder in (tmp_path / "begun", tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"holds no complete feature cache \(no cache\.json\); fill it with tools"):
            CachedTeacher(folder)
    changed = written(tmp_path / "changed")
    table = np.load(changed / "crops.npy")
    table["flip"] ^= True
    np.save(changed / "crops.npy", table)
    with pytest.raises(UserError, match=r"crops\.npy is not the one that cache\.json describes"):
        CachedTeacher(changed)
    np.save(written(tmp_path / "short") / "features-000001.npy", np.zeros((3, 16, 24), np.float16))
    with pytest.raises(UserError, match=r"features-000001\.npy is of shape \(3, 16, 24\) where cache\.json says \(4, 16, 24\)"):
        CachedTeacher(tmp_path / "short")(crops()[0])
    (written(tmp_path / "lost") / "features-000002.npy").unlink()
    with pytest.raises(UserError, match=r"lacks 1 files, first features-000002\.npy"):
        CachedTeacher(tmp_path / "lost")


def test_a_description_of_another_version_or_of_something_else_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "cache") / "cache.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"version": 3}))
    with pytest.raises(UserError, match="is of version 3 and this package reads 2"):
        CachedTeacher(path.parent)
    path.write_text("[]")
    with pytest.raises(UserError, match="is not the description of a feature cache"):
        CachedTeacher(path.parent)


def test_a_writer_refuses_unknown_storage_and_shards_of_another_size_than_planned(tmp_path: Path) -> None:
    images, records = crops()
    with pytest.raises(UserError, match="storage='int4' of the feature cache is unknown; choose one of fp16, int8"):
        plan_of(teacher(), 10, storage="int4")
    with pytest.raises(UserError, match="a feature cache of 0 crops in shards of 4 cannot be"):
        plan_of(teacher(), 0, shard=4)
    plan = plan_of(teacher(), COUNT, shard=4)
    features = encoded(teacher()(images).numpy(), "fp16")
    with pytest.raises(UserError, match=r"shard 0 .* is to be \(4, 16, 24\) and was given features \(10, 16, 24\) and 10 crops"):
        write_shard(tmp_path, plan, 0, [features], records, pixel_digests(images))


def test_a_cache_of_a_teacher_that_resizes_crops_fits_the_same_student(tmp_path: Path) -> None:
    resizing = SeededTeacher(24, image_size=64, patch_size=16)
    resizing.resize = True
    write(tmp_path / "cache", resizing, 2)
    for either in (resizing, CachedTeacher(tmp_path / "cache", teacher=resizing)):
        check_teacher(either, target_dim=24, image_size=SIDE, patch_size=14)
