"""tools/cache_teacher.py as a user calls it, and pre-training from what it writes."""

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import LazyCall as L

from eva02_det.utils.errors import UserError
from eva02_mim.cache_writer import in_words
from eva02_mim.config import load_recipe
from eva02_mim.fixed_crops import fill_from
from eva02_mim.loader import validation_loader
from eva02_mim.train import train
from tests.mim.nano_run import RECIPE, ROOT, draw_pictures, losses, nano_config

TOOL = ROOT / "tools/cache_teacher.py"
COUNT, SHARD = 48, 4
SHORT = {"train__max_steps": 6, "train__batch": 16, "train__log_period": 1, "schedule__warmup_epochs": 1}


@pytest.fixture(autouse=True)
def _index(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVA02_MIM_CACHE", str(tmp_path_factory.getbasetemp() / "index"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("images"), COUNT)


def overrides(images: Path, *more: str) -> list[str]:
    return [f"dataloader.train.source.spec={images}", "train.device=cpu", *more]


def filled(images: Path, folder: Path, *more: str) -> Path:
    fill_from(load_recipe(RECIPE, overrides(images, *more)), folder, shard=SHARD, batch_size=3)
    return folder


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that was filled in one go."""
    return filled(images, tmp_path_factory.mktemp("cache") / "whole")


def started(images: Path, folder: Path, *options: str) -> subprocess.Popen[str]:
    size = ["--shard", str(SHARD), "--batch", "3", "--workers", "0"]
    named = ["--config-file", str(RECIPE), "--output", str(folder)]
    command = [sys.executable, str(TOOL), *named, *size, *options, *overrides(images)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    return output


def assert_equal(one: Path, other: Path) -> None:
    assert sorted(file.name for file in one.iterdir()) == sorted(file.name for file in other.iterdir())
    for file in one.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes(), file.name


@pytest.mark.parametrize("validated", [False, True], ids=["teacher not kept", "teacher kept for validation"])
def test_training_from_a_cache_has_the_losses_of_the_living_teacher(
    validated: bool, images: Path, whole: Path, tmp_path: Path
) -> None:
    live = nano_config(images, tmp_path / "live", dataloader__train__fixed_crops=True, **SHORT)
    cached = nano_config(images, tmp_path / "cached", train__teacher_cache=str(whole), train__accumulate=2, **SHORT)
    if validated:
        for config in (live, cached):
            config.dataloader.validation = L(validation_loader)(source=config.dataloader.train.source, image_size=56)
    train(live)
    last = train(cached)
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "live"), abs=2e-4)  # features in fp16: 2^-11
    assert len(losses(tmp_path / "cached")) == 6
    assert ("validation_loss" in last) == validated


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"teacher__seed": 1}, r"is of another teacher \(seeded ViT 0\)"),
        ({"train__seed": 7}, "is of other crops: its seed is 88 and the run's 7"),
        ({"dataloader__train__crop__flip": 0.0}, r"is of other crops: its crop is RandomCrop\(.*flip=0.5\)"),
    ],
)
def test_a_run_refuses_a_cache_of_another_teacher_seed_or_crop(
    changes: dict[str, float], sentence: str, images: Path, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        train(nano_config(images, tmp_path / "run", train__teacher_cache=str(whole), **SHORT, **changes))


def test_a_run_refuses_images_that_changed_since_the_cache_was_filled(images: Path, whole: Path, tmp_path: Path) -> None:
    changed = draw_pictures(tmp_path / "images", COUNT, side=72)  # the same names
    with pytest.raises(UserError, match=r"the crop of image \d+ is not the one that feature cache .* is of"):
        train(nano_config(changed, tmp_path / "run", train__teacher_cache=str(whole), **SHORT))


def test_after_kill_9_filling_goes_on_and_the_cache_is_the_same(images: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    process = started(images, folder)
    while len(list(folder.glob("crops-*.npy"))) < 3:
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    there = {file.name: file.stat().st_mtime_ns for file in folder.glob("features-*.npy")}
    assert 3 <= len(there) < COUNT // SHARD, "it was over before it could be killed"
    (folder / ".features-000099.npy.torn.part").write_bytes(b"half a file")
    filled(images, folder)
    finished_ones = [name for name, time_ns in there.items() if (folder / name).stat().st_mtime_ns == time_ns]
    assert len(finished_ones) >= 3, "what was written is not written again"
    assert_equal(folder, whole)


@pytest.mark.distributed
def test_two_processes_write_their_shards_of_the_same_cache(images: Path, whole: Path, tmp_path: Path) -> None:
    output = finished(started(images, tmp_path / "two", "--num-gpus", "2"))
    assert re.search(rf"features of {COUNT} images x 16 patches x 32 x 2 bytes take 51\.\d kB, 51\.\d kB of them still", output)
    assert f"all of {COUNT} images were readable" in output, "the account is that of both processes"
    assert_equal(tmp_path / "two", whole)


def test_a_cache_begun_for_something_else_or_a_folder_of_other_things_is_left_alone(
    images: Path, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"is of another teacher \(seeded ViT 0 there, seeded ViT 3 here\); name another folder"):
        filled(images, whole, "teacher.seed=3")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no feature cache; remove it or name another one"):
        filled(images, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_the_space_is_asked_for_before_anything_is_computed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**6, 10**6 - 50_000, 50_000))
    with pytest.raises(UserError, match=r"bytes take 51\.\d kB, .* has 50 kB free, which is too little; free some"):
        filled(images, tmp_path / "full")
    assert not list((tmp_path / "full").iterdir())


def test_sizes_are_said_in_powers_of_1000() -> None:
    assert [in_words(size) for size in (999, 1_000, 14_200_000 * 256 * 1024 * 2)] == ["999 bytes", "1 kB", "7.44 TB"]


def test_a_cache_has_a_float16_for_every_patch_and_channel_of_every_image(whole: Path) -> None:
    arrays = [np.load(file) for file in sorted(whole.glob("features-*.npy"))]
    assert {(array.shape, array.dtype.name) for array in arrays} == {((SHARD, 16, 32), "float16")}
    assert len(arrays) == COUNT // SHARD


@pytest.mark.parametrize("options", [[], ["--teacher", "x"], ["--config-file", str(RECIPE), "--teacher", "x", "--data", "y"]])
def test_what_to_cache_must_be_said_in_one_way(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", [TOOL.name, "--output", "nowhere", *options])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(TOOL), run_name="__main__")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: say what to cache: either --config-file FILE, or --teacher NAME and --data SPEC\n"
