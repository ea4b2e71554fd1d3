"""A cache filled from a data set serves the training loader with fixed crops, and no other."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eva02_det.utils.errors import UserError
from eva02_det.utils.sources.base import Source
from eva02_det.utils.sources.files import open_source
from eva02_mim.crops import decode
from eva02_mim.fixed_crops import fill_cache
from eva02_mim.loader import MimLoader, mim_loader
from eva02_mim.normalise import Normalise
from eva02_mim.progress import flops_per_image
from eva02_mim.step import Batch, PretrainStep
from eva02_mim.student import MimStudent
from eva02_mim.teacher import SeededTeacher
from tests.utils.image_files import MASKS, SMALL, write_images

COUNT = 12


def teacher() -> SeededTeacher:
    return SeededTeacher(16, **SMALL)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, COUNT)
    return open_source(folder, cache=tmp_path_factory.mktemp("index"))


def loader(source: Source, **options: object) -> MimLoader:
    return mim_loader(source, batch_size=4, masks=MASKS, **SMALL, **{"seed": 5, "fixed_crops": True, **options})


def test_a_filled_cache_has_the_features_of_every_crop_of_every_epoch(source: Source, tmp_path: Path) -> None:
    cached = fill_cache(tmp_path / "cache", teacher(), loader(source).dataset, batch_size=5, workers=1)
    batches = iter(loader(source))
    seen = set()
    for _ in range(2 * COUNT // 4):
        batch = next(batches)
        seen |= set(batch["sample"].tolist())
        assert torch.cosine_similarity(cached(batch["images"]), teacher()(batch["images"]), dim=-1).min() > 0.99999
    assert seen == set(range(COUNT))


def test_box_and_flip_cut_the_very_crop_out_of_the_image(source: Source, tmp_path: Path) -> None:
    cached = fill_cache(tmp_path / "cache", teacher(), loader(source).dataset)
    crops = {sample: crop for batch in some(loader(source), 3) for sample, crop in zip(batch["sample"].tolist(), batch["images"])}
    records = cached.crops()
    assert {record.flip for record in records} == {False, True}
    for record in records:
        image = decode(source[record.sample]).crop(record.box)
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if record.flip else image
        pixels = np.asarray(image.resize((SMALL["image_size"],) * 2, Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(pixels, crops[record.sample].permute(1, 2, 0).numpy())
        assert record.mask_seed == 5


def some(batches: MimLoader, count: int) -> list[dict[str, torch.Tensor]]:
    following = iter(batches)
    return [next(following) for _ in range(count)]


def test_crops_of_another_seed_or_that_change_are_refused(source: Source, tmp_path: Path) -> None:
    cached = fill_cache(tmp_path / "cache", teacher(), loader(source).dataset)
    with pytest.raises(UserError, match="are not in feature cache"):
        cached(some(loader(source, seed=6), 1)[0]["images"])
    changing = loader(source, fixed_crops=False)
    with pytest.raises(UserError, match=r"crops of these batches change from epoch to epoch.*set fixed_crops=True"):
        fill_cache(tmp_path / "other", teacher(), changing.dataset)
    with pytest.raises(UserError, match="are not in feature cache"):
        cached(some(changing, 6)[5]["images"])


def test_a_step_learns_from_the_cache_what_it_learns_from_the_teacher(source: Source, tmp_path: Path) -> None:
    cached = fill_cache(tmp_path / "cache", teacher(), loader(source).dataset)
    drawn = Batch.of(some(loader(source), 1)[0], torch.device("cpu"))
    outcomes, costs = [], []
    for of in (teacher(), cached):
        torch.manual_seed(0)
        student = MimStudent(32, 2, 2, target_dim=16, **SMALL)
        costs.append(flops_per_image(of, student, Normalise(), hidden=6))
        step = PretrainStep(student, of, torch.optim.AdamW(student.parameters()), Normalise(), torch.device("cpu"), "fp32")
        outcomes.append(step(drawn, 1e-3))
    torch.testing.assert_close(outcomes[0].loss, outcomes[1].loss, rtol=0, atol=1e-5)
    torch.testing.assert_close(outcomes[0].norm, outcomes[1].norm, rtol=1e-3, atol=0)
    assert costs[1] < costs[0], "the cache spares the teacher's part"
