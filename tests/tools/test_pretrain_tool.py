"""tools/pretrain.py and tools/export_mim.py as a user calls them."""

import json
import logging
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.mim.nano_run import RECIPE, TOOL, draw_pictures, losses

EXPORT = TOOL.with_name("export_mim.py")
SHORT = ["train.batch=16", "train.max_steps=4", "schedule.warmup_epochs=0.5", "train.log_period=2", "train.device=cpu"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVA02_MIM_CACHE", str(tmp_path / "cache"))
    draw_pictures(tmp_path / "images", count=32)
    loggers = [logging.getLogger(name) for name in ("eva02_mim", "eva02_det")]
    before = [(logger, logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, handlers, propagate, level in before:  # a run logs to its folder and to this test's output
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
        logger.propagate = propagate
        logger.setLevel(level)


def call(monkeypatch: pytest.MonkeyPatch, tool: Path, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [tool.name, *arguments])
    runpy.run_path(str(tool), run_name="__main__")


def pretrain(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    images = f"dataloader.train.source.spec={Path('images').absolute()}"
    call(monkeypatch, TOOL, "--config-file", str(RECIPE), images, "train.output_dir=run", *SHORT, *arguments)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    pretrain(monkeypatch, "--dry-run", "--num-gpus", "2", "train.accumulate=2")
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert rows["data"].strip() == "32 images an epoch"
    assert rows["steps"].strip() == "4 of 16 images, 2 in an epoch"
    batch = "8 images in each of 2 processes, in 2 parts of 4; 16 images of an epoch in each process, others in the next"
    assert rows["batch"].strip() == batch
    assert rows["epochs"].strip() == "2"
    assert rows["masks"].strip() == "at most 6 of 16 patches"
    assert not Path("run").exists()


def test_a_run_is_resumed_and_its_student_exported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    pretrain(monkeypatch)
    pretrain(monkeypatch, "--resume", "train.max_steps=6")
    assert list(losses(Path("run"))) == [2, 4, 6]
    assert Path("run/config.yaml").is_file()
    assert Path("run/log.txt").is_file()
    call(monkeypatch, EXPORT, "run/checkpoint_0000006.pt", "exported")
    assert "wrote exported/model.safetensors and exported/config.json" in capsys.readouterr().out
    assert json.loads(Path("exported/config.json").read_text())["architecture"]["num_heads"] == 4
    call(monkeypatch, EXPORT, "run/checkpoint_0000006.pt", "p14to16.pt", "--layout", "p14to16")
    assert torch.load("p14to16.pt", weights_only=True)["model"]["patch_embed.proj.weight"].shape[-1] == 16


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train.epoch=3"], "error: unknown override key 'train.epoch': train has no 'epoch'; did you mean 'epochs'?"),
        (["student.target_dim=48"], "error: teacher seeded ViT 0 gives features of width 32 and the student predicts 48"),
        (["dataloader.train.masks.grid=5"], "error: masks of 5 x 5 patches do not fit images of 56 px with patches of 14 px"),
        (["train.batch=48"], "error: an epoch of 32 images does not fill one batch of 48 x 1 processes; lower the batch size"),
        (["train.teacher_cache=nowhere"], "error: folder nowhere holds no complete feature cache"),
        (["--num-gpus", "3"], "error: train.batch=16 does not split over 3 processes"),
        (["student.image_size=70"], "error: crops of 56 px in 4 x 4 patches do not fit a student of 70 px in 5 x 5"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_status_2(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit) as stopped:
        pretrain(monkeypatch, "--dry-run", *arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(sentence)
    assert error.count("\n") == 1


def test_an_argument_that_the_teacher_does_not_take_is_said_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit) as stopped:
        pretrain(monkeypatch, "teacher._target_=eva02_mim.teacher.load_teacher")
    assert stopped.value.code == 2
    assert "error: the config's teacher cannot be built: load_teacher() got an unexpected keyword" in capsys.readouterr().err
