"""Class folders, timm's training transform, and batches with labels."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import RandAugment

from eva02_det.utils.errors import UserError
from eva02_det.utils.randomness import seeded
from eva02_mim.class_data import (
    TrainCrop,
    open_classes,
    posterize,
    require_same_classes,
    timm_transform,
    train_loader,
)
from eva02_mim.labelled import class_folder
from eva02_mim.normalise import CLIP_MEAN, CLIP_STD, Normalise

SIDE = 28


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVA02_MIM_CACHE", str(tmp_path / "cache"))


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def folder(root: Path, counts: dict[str, int]) -> Path:
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for image in range(count):
            Image.new("RGB", (30, 30), (number * 40, image, 0)).save(root / name / f"{image}.png")
    return root


def test_the_training_crop_is_timm_s_with_the_published_arguments():
    theirs = create_transform(
        SIDE,
        is_training=True,
        color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.0,
        scale=(0.08, 1.0),
        mean=CLIP_MEAN,
        std=CLIP_STD,
    )
    normalise = Normalise()
    for seed in range(20):
        image = noise(seed)
        crop = TrainCrop()(image, SIDE, random.Random(seed))
        with seeded(random.Random(seed).getrandbits(63)):
            wanted = theirs(image)
        torch.testing.assert_close(normalise(torch.from_numpy(crop).permute(2, 0, 1)[None])[0], wanted, rtol=0, atol=2e-6)


def test_randaugment_applies_two_of_timm_s_increasing_operations_at_magnitude_nine():
    augment = next(
        step
        for step in timm_transform(SIDE, (0.08, 1.0), "rand-m9-mstd0.5-inc1", 0.5).transforms
        if isinstance(step, RandAugment)
    )
    assert augment.num_layers == 2
    assert {(op.magnitude, op.magnitude_std) for op in augment.ops} == {(9, 0.5)}
    assert "PosterizeIncreasing" in {op.name for op in augment.ops}


def test_posterising_to_no_bits_is_black_as_in_earlier_versions_of_pillow():
    image = noise(0)
    assert np.asarray(posterize(image, 0)).max() == 0
    for bits in range(1, 9):
        mask = 256 - 2 ** (8 - bits)
        np.testing.assert_array_equal(np.asarray(posterize(image, bits)), np.asarray(image) & mask)
    for seed in range(300):  # 2.3 % of the magnitudes are the largest
        TrainCrop(augment="rand-m10-n6-inc1")(noise(0), SIDE, random.Random(seed))


def seed_all() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def test_drawing_a_crop_leaves_the_generators_of_the_process_as_they_are():
    seed_all()
    wanted = random.random(), np.random.rand(), float(torch.rand(()))
    seed_all()
    TrainCrop()(noise(0), SIDE, random.Random(3))
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == wanted


def test_an_image_s_crop_depends_on_seed_epoch_and_image_alone(tmp_path: Path):
    root = folder(tmp_path / "data", {"a": 6, "b": 6})
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        noise(number).save(path)

    def crops(batch_size: int, workers: int, seed: int = 0, epochs: int = 2) -> dict[tuple[int, int], torch.Tensor]:
        loader = train_loader(root, batch_size=batch_size, image_size=SIDE, workers=workers, seed=seed)
        found = {}
        for batch, _ in zip(loader, range(epochs * loader.steps_per_epoch)):
            found |= {(int(v), int(s)): image for v, s, image in zip(batch["visit"], batch["sample"], batch["images"])}
        return found

    one, other = crops(4, 0), crops(3, 2)
    assert one.keys() == other.keys()
    assert len(one) == 24
    assert all(torch.equal(image, other[key]) for key, image in one.items())
    assert any(not torch.equal(one[0, s], one[1, s]) for s in range(12))
    assert any(not torch.equal(image, one[key]) for key, image in crops(4, 0, seed=1).items())


def test_labels_are_places_in_the_sorted_classes_at_any_depth(tmp_path: Path):
    root = folder(tmp_path / "data", {"b": 2, "a-b": 1, "a": 3, "a b": 2, "B": 1})
    (root / "b/below").mkdir()
    Image.new("RGB", (30, 30)).save(root / "b/below/0.png")
    found = class_folder(root)
    assert found.classes == ("B", "a", "a b", "a-b", "b")
    assert [found.classes[label] for label in found.labels] == [
        Path(found.source.name(n)).relative_to(root).parts[0] for n in range(len(found.source))
    ]
    assert np.bincount(found.labels).tolist() == [1, 3, 2, 1, 3]


def test_an_unreadable_image_is_counted_and_replaced_by_the_next_one_with_its_label(tmp_path: Path):
    root = folder(tmp_path / "data", {"a": 2, "b": 2})
    (root / "a/1.png").write_bytes(b"no image")
    loader = train_loader(root, batch_size=4, image_size=SIDE, crop=TrainCrop(augment=None))
    batch = next(iter(loader))
    shown = {
        int(sample): (int(label), int(image[0, 0, 0]))
        for sample, label, image in zip(batch["sample"], batch["label"], batch["images"])
    }
    assert shown == {0: (0, 0), 1: (1, 40), 2: (1, 40), 3: (1, 40)}  # the red of a class tells which image it was
    assert loader.broken.count == 1
    assert "a/1.png" in loader.broken.summary()


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({"a": 2}, "holds one class only, a; a classifier needs two class folders or more"),
        ({"a": 2, "b": 1, "c": 0, "d": 0}, "has class folders without an image: c, d; fill or remove them"),
        ({".": 2}, "0.png lies in no class folder; "),
        ({}, "holds no image"),
    ],
)
def test_a_folder_that_is_no_set_of_classes_is_refused(counts: dict[str, int], sentence: str, tmp_path: Path):
    (tmp_path / "data").mkdir()
    for name, count in counts.items():
        (tmp_path / "data" / name).mkdir(exist_ok=True)
        for image in range(count):
            Image.new("RGB", (30, 30)).save(tmp_path / "data" / name / f"{image}.png")
    with pytest.raises(UserError, match=sentence):
        open_classes(tmp_path / "data")


def test_classes_that_only_one_folder_has_are_named(tmp_path: Path):
    train = open_classes(folder(tmp_path / "train", {"a": 1, "b": 1, "c": 1}))
    val = open_classes(folder(tmp_path / "val", {"a": 1, "b": 1, "d": 1}))
    require_same_classes(train, train)
    with pytest.raises(UserError, match=f"c only in {train.root}; d only in {val.root}; give both"):
        require_same_classes(train, val)
