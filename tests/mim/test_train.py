"""Whole runs of the nano recipe."""

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eva02_det.checkpoint.load import load_weights
from eva02_det.utils.errors import UserError
from eva02_mim.build import build_student
from eva02_mim.checkpoints import files_of
from eva02_mim.hidden import HiddenTokens
from eva02_mim.loss import hidden_targets, hidden_token_loss
from eva02_mim.masking import striped_mask
from eva02_mim.normalise import Normalise
from eva02_mim.progress import Speed, flops_per_image
from eva02_mim.student import MimStudent
from eva02_mim.teacher import SeededTeacher
from eva02_mim.train import Run, train
from tests.mim.nano_run import Poisoned, draw_pictures, lines, losses, nano_config

SHORT = {"train__batch": 16, "train__max_steps": 6, "schedule__warmup_epochs": 0.5, "train__log_period": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("images"))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVA02_MIM_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
def test_a_nano_student_learns_64_images_to_a_loss_below_minus_0_9(images: Path, tmp_path: Path):
    changes = {"dataloader__train__fixed_crops": True, "train__batch": 32, "schedule__warmup_epochs": 5, "train__log_period": 10}
    train(nano_config(images, tmp_path / "run", train__epochs=160, **changes))
    found = losses(tmp_path / "run")
    assert found[10] > -0.6  # of ten steps from about 0
    assert found[320] < -0.9


def test_what_is_reported_is_in_the_lines_and_on_the_board_with_validation_and_rates(images: Path, tmp_path: Path):
    config = nano_config(images, tmp_path / "run", **SHORT, train__eval_period=3, train__peak_tflops=0.001)
    config.dataloader.validation = {
        "_target_": "eva02_mim.loader.validation_loader",
        "source": config.dataloader.train.source,
        "image_size": 56,
    }
    last = train(config)
    rows = lines(tmp_path / "run")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "validation_loss" in row] == [3, 6]
    assert [row["lr"] for row in rows if "loss" in row][:3] == pytest.approx([0, 2e-3, 2e-3])
    assert all(row["images_per_s"] > 0 and 0 < row["mfu"] < 100 for row in rows if "loss" in row)
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert last["validation_loss"] == rows[-1]["validation_loss"]
    board = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.value for event in board.Scalars("validation_loss")][-1] == pytest.approx(last["validation_loss"])


def test_validation_hides_every_second_column_and_averages_over_all_tokens(images: Path, tmp_path: Path):
    config = nano_config(images, tmp_path / "run", **SHORT)
    config.dataloader.validation = {
        "_target_": "eva02_mim.loader.validation_loader",
        "source": config.dataloader.train.source,
        "image_size": 56,
    }
    config.train.batch = 24  # 64 images: the last batch is smaller
    run = Run(config)
    from eva02_mim.validation import validation_loss

    found = validation_loss(run.step, run.validation)
    crops = torch.cat([batch["images"] for batch in run.validation])
    index = striped_mask(4).nonzero().flatten().expand(len(crops), -1)
    assert len(crops) == 64
    hidden = HiddenTokens(index, torch.ones(index.shape))
    targets = hidden_targets(run.step.teacher(crops), index)
    with torch.no_grad():
        loss = hidden_token_loss(run.student(Normalise()(crops), hidden), targets, hidden.weight)
    assert found == pytest.approx(loss.item(), abs=1e-6)


def test_the_newest_checkpoints_are_kept_and_hold_the_weights_where_a_student_finds_them(images: Path, tmp_path: Path):
    config = nano_config(images, tmp_path / "run", **SHORT, train__checkpoints__period=2, train__checkpoints__keep=2)
    train(config)
    files = files_of(tmp_path / "run")
    assert [file.name for file in files] == ["checkpoint_0000004.pt", "checkpoint_0000006.pt"]
    content = torch.load(files[-1], weights_only=True)
    student = build_student(config, torch.device("cpu"))
    assert load_weights(student, files[-1]).complete
    torch.testing.assert_close(dict(student.state_dict()), content["model"])


def test_a_folder_with_a_run_is_not_begun_again_and_a_finished_run_has_nothing_to_resume(images: Path, tmp_path: Path):
    config = nano_config(images, tmp_path / "run", **SHORT)
    train(config)
    with pytest.raises(UserError, match=r"checkpoint_0000006.pt is of an earlier run; pass --resume"):
        train(config)
    assert train(config, resume=True) == {}


def test_a_run_starts_from_the_weights_that_are_named_and_needs_them_no_more_to_go_on(images: Path, tmp_path: Path):
    train(nano_config(images, tmp_path / "first", **SHORT))
    start = tmp_path / "start.pt"
    files_of(tmp_path / "first")[-1].rename(start)
    changes = {**SHORT, "train__init_checkpoint": str(start), "train__max_steps": 1}  # whose first step has a rate of 0
    train(nano_config(images, tmp_path / "second", **{**changes, "schedule__warmup_epochs": 0.25}))
    one, two = (torch.load(file)["model"] for file in (start, files_of(tmp_path / "second")[-1]))
    torch.testing.assert_close(two, one, rtol=0, atol=0)
    start.unlink()
    train(nano_config(images, tmp_path / "second", **{**changes, "train__max_steps": 2}), resume=True)
    assert list(losses(tmp_path / "second")) == [1, 2]


def test_a_checkpoint_of_another_student_is_refused_with_the_weight_that_differs(images: Path, tmp_path: Path):
    train(nano_config(images, tmp_path / "run", **SHORT))
    with pytest.raises(UserError, match=r"of another student: .*k_proj.weight \(\(128, 128\) there, \(64, 64\) here"):
        train(nano_config(images, tmp_path / "run", **SHORT, student__embed_dim=64), resume=True)


def test_faulty_steps_end_the_run_with_the_names_of_the_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    images = draw_pictures(tmp_path / "images")
    for number in range(64):
        Image.new("RGB", (64, 64), "white").save(images / f"{number:03d}.png")
    config = nano_config(images, tmp_path / "run", **SHORT, train__max_faults=2)
    config.teacher["_target_"] = Poisoned
    stop = r"step 2 and the 2 before it .* 16 images .*\d\d\d.png"
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match=stop):
        train(config)
    assert "step 1 is not finite and was left out (2 in a row): 16 images" in caplog.text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"teacher__dim": 48}, "features of width 48 and the student predicts 32"),
        ({"train__batch": 65}, "an epoch of 64 images does not fill one batch of 65"),
        ({"train__batch": 15, "train__accumulate": 2}, "train.batch=15 does not split over 1 processes x train.accumulate=2"),
        ({"train__precision": "int8"}, "train.precision=int8 is not one of fp32, bf16, fp16"),
        ({"train__parallel": "zero"}, "train.parallel=zero is not one of ddp, fsdp"),
        ({"train__max_steps": 2, "schedule__warmup_epochs": 1}, "schedule of 2 steps with 4 of warm-up"),
        ({"student__image_size": 60}, "image_size=60 px is no multiple of patch_size=14 px"),
        ({"train__checkpoints__keep": 0}, "train.checkpoints.keep=0 keeps nothing to resume from"),
    ],
)
def test_bad_input_is_one_sentence(changes: dict, sentence: str, images: Path, tmp_path: Path):
    with pytest.raises(UserError, match=sentence.replace(".", r"\.")):
        train(nano_config(images, tmp_path / "run", **{**SHORT, **changes}))


def test_operations_are_those_of_the_matrix_products():
    student = MimStudent(32, 2, 2, target_dim=8, image_size=28)
    teacher = SeededTeacher(8, width=16, depth=1, image_size=28)
    before = torch.random.get_rng_state()
    found = flops_per_image(teacher, student, Normalise(), hidden=2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in student.parameters())
    patch, width, tokens = 3 * 14 * 14, 32, 5
    ffn = 3 * width * int(width * 8 / 3)
    full = tokens * (4 * width**2 + ffn + 2 * tokens * width)  # one block, in multiplications
    last = tokens * 2 * width**2 + 2 * (2 * width**2 + ffn + 2 * tokens * width)  # two tokens ask, all answer
    forward = 4 * patch * width + full + last + 2 * width * 8
    assert found > 2 * 3 * forward - 2 * 4 * patch * width  # no gradient for the pixels
    assert found < 2 * 3 * forward * 1.5  # the small teacher


def test_mfu_is_the_share_of_the_peak():
    speed = Speed(images=100, flops_per_image=2e9, peak_tflops=1.0)
    speed.step(waited_s=0.5)
    numbers = speed.measured()
    assert numbers["mfu"] == pytest.approx(numbers["images_per_s"] * 2e9 / 1e12)
    assert numbers["images_per_s"] == pytest.approx(100 / numbers["step_s"])
    assert numbers["data_s"] == 0.5


def test_what_a_stopped_run_reported_too_far_is_taken_out(tmp_path: Path):
    from eva02_mim.progress import keep_lines_up_to

    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, 6)) + '{"step": 6, "lo')
    keep_lines_up_to(file, 3)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3]
