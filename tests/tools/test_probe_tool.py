"""tools/probe_classifier.py as a user calls it: scores of a student on class folders, in one process and in two."""

import json
import logging
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from eva02_det.utils.errors import UserError
from eva02_mim.export import export_student
from eva02_mim.labelled import class_folder
from eva02_mim.linear import LinearSolver
from eva02_mim.probe import load_probe
from tests.mim.small_student import small_student

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/probe_classifier.py"
CONFIGS = ROOT / "projects/eva02_mim/configs/classification"
COLOURS = {"blue": (60, 60, 200), "green": (60, 190, 60), "grey": (120, 120, 120), "red": (200, 60, 60)}


def draw_classes(root: Path, count: int, seed: int) -> None:
    """Noisy pictures, whose colour is the class, unevenly many of each."""
    draw = np.random.default_rng(seed)
    for place, (name, colour) in enumerate(COLOURS.items()):
        (root / name).mkdir(parents=True)
        for number in range(count + place):
            noise = draw.normal(0, 60, (8, 8, 3)) + draw.normal(0, 30, 3)
            pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).resize((60, 70)).save(root / name / f"{number:02d}.png")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVA02_MIM_CACHE", str(tmp_path / "index"))
    draw_classes(tmp_path / "train", 12, 0)
    draw_classes(tmp_path / "val", 6, 1)
    torch.save({"model": small_student().state_dict()}, tmp_path / "checkpoint.pt")
    export_student(tmp_path / "checkpoint.pt", tmp_path / "student", num_heads=2)
    loggers = [logging.getLogger(name) for name in ("eva02_mim", "eva02_det")]
    before = [(logger, logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, handlers, propagate, level in before:  # a run logs to its folder and to this test's output
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
        logger.propagate = propagate
        logger.setLevel(level)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    nano = ["--config-file", str(CONFIGS / "probe_nano.py"), "--student", "student", "--train", "train", "--val", "val"]
    monkeypatch.setattr(sys, "argv", [TOOL.name, *nano, *arguments, "train.device=cpu"])
    runpy.run_path(str(TOOL), run_name="__main__")


def results(output: Path) -> dict[str, dict[str, float]]:
    return json.loads((output / "results.json").read_text())


def test_a_probe_scores_a_student_and_keeps_its_head_and_features(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    call(monkeypatch, "train.output_dir=out")
    found = results(Path("out"))
    assert 40 < found["linear"]["top1"] < 100, "far above chance, and not a set that anything solves"
    assert found["linear"]["top5"] == found["neighbours"]["top5"] == 100, "there are four classes"
    assert (found["train_images"], found["images"], found["classes"]) == (54, 30, 4)
    printed = capsys.readouterr().out.splitlines()[-3:]
    assert printed[0].startswith(f"linear      top-1 {found['linear']['top1']:.3f} %")
    assert printed[1].startswith(f"neighbours  top-1 {found['neighbours']['top1']:.3f} %")
    assert printed[2] == "of 30 images in 4 classes; learnt from 54 crops of 54 images"
    head, features = load_file("out/head.safetensors"), np.load("out/features/validation/features.npy")
    best = (features @ head["weight"].numpy().T + head["bias"].numpy()).argmax(1)
    assert 100 * np.mean(best == class_folder("val").labels) == pytest.approx(found["linear"]["top1"])
    before = Path("out/features/train/features.npy").stat().st_mtime_ns
    call(monkeypatch, "train.output_dir=out", "neighbours=null", "solver.l2=[1e-2]")
    assert Path("out/features/train/features.npy").stat().st_mtime_ns == before
    assert "neighbours" not in results(Path("out"))
    assert results(Path("out"))["linear"]["l2"] == 1e-2


def test_augmented_passes_show_each_training_image_so_many_times(monkeypatch: pytest.MonkeyPatch):
    call(monkeypatch, "train.output_dir=out", "dataloader.augmented_passes=3", "dataloader.augment.area=[0.5,1.0]")
    found = results(Path("out"))
    assert (found["train_crops"], found["train_images"]) == (162, 54)
    assert json.loads(Path("out/features/validation/about.json").read_text())["visits"] == 1
    assert found["linear"]["top1"] > 40


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--train", "nowhere"], "nowhere does not exist"),
        (["--val", "more"], "more has 1 classes that train has not (yellow)"),
        (["--train", "single"], "single holds the one class red"),
        (["--student", "train"], "train"),
        (["--student", "timm:resnet18=checkpoint.pt"], "resnet18"),
        (["readout.pool=max"], "readout.pool=max is not one of mean, class"),
        (["solver.strength=1"], "unknown override key 'solver.strength'"),
        (["train.batch=0"], "train.batch=0 is too small"),
        (["train.precision=fp8"], "train.precision=fp8 is not one of fp32, bf16, fp16"),
        (["--config-file", str(ROOT / "projects/eva02_mim/configs/nano.py")], "it lacks readout, solver; start from"),
    ],
)
def test_bad_input_is_one_sentence_and_status_two(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    (Path("single") / "red").mkdir(parents=True)
    (Path("more") / "yellow").mkdir(parents=True)
    for folder in ("single/red", "more/yellow"):
        Image.new("RGB", (60, 60)).save(f"{folder}/0.png")
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, *arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert words in said


def test_the_recipe_reads_the_mean_of_the_patches_and_a_central_crop_of_seven_eighths():
    config = load_probe(CONFIGS / "probe_imagenet.py", ["train.device=cpu"])
    assert (config.readout.pool, config.readout.norm) == ("mean", "tokens")
    assert config.dataloader.crop.crop_ratio == 0.875
    assert (config.neighbours.k, config.neighbours.temperature) == (20, 0.07)
    with pytest.raises(UserError, match="must hold one strength or more"):
        LinearSolver([])
