"""tools/finetune_classifier.py as a user calls it."""

import json
from pathlib import Path

import pytest
import torch

from eva02_mim.classifier import Classifier
from eva02_mim.student import MimStudent
from tests.mim.class_pictures import CLASSES, TOOL, arguments, draw_classes
from tests.mim.known_answers import write_classes
from tests.mim.nano_run import losses
from tests.tools.test_pretrain_tool import call, here  # noqa: F401  the fixture works in a folder of its own

SHORT = {"train__epochs": 2, "train__batch": 12, "train__log_period": 2}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return draw_classes(tmp_path / "data", train=8, val=3)


def finetune(monkeypatch: pytest.MonkeyPatch, data: Path, *options: str, **changes: object) -> None:
    call(monkeypatch, TOOL, *arguments(data, Path("run"), *options, **{**SHORT, **changes}))


def student(folder: Path) -> Path:
    """A checkpoint of pre-training for the nano classifier, at 112 px."""
    torch.manual_seed(0)
    model = MimStudent(64, 2, 2, target_dim=8, image_size=112)
    torch.save({"module": model.state_dict()}, folder / "student.pt")
    return folder / "student.pt"


def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    finetune(monkeypatch, data, "--dry-run", "--num-gpus", "2", train__accumulate=3)
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert rows["data"].strip() == "24 images of 3 classes"
    assert rows["validation"].strip() == "9 images"
    assert rows["steps"].strip() == "4 of 12 images, 2 in an epoch"
    assert rows["batch"].strip() == "6 images in each of 2 processes, in 3 parts"
    assert rows["layer decay"].strip() == "0.9: factors from 0.729 to 1"
    assert not Path("run").exists()


def test_a_student_is_fine_tuned_resumed_and_scored(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    begin = {"train__init_checkpoint": str(student(tmp_path)), "model__train_patch_embed": False, "train__decay_frozen": False}
    finetune(monkeypatch, data, **begin)
    finetune(monkeypatch, data, "--resume", **{**begin, "train__epochs": 3, "train__init_checkpoint": "gone.pt"})
    assert list(losses(Path("run"))) == [2, 4, 6]
    results = json.loads(Path("run/results.json").read_text())
    assert results["last"]["step"] == 6
    assert results["last"]["scores"]["ema"]["images"] == 9
    kept = torch.load("run/best.pt", weights_only=True)
    pretrained = torch.load(tmp_path / "student.pt", weights_only=True)["module"]
    assert torch.equal(kept["model"]["patch_embed.proj.weight"], pretrained["patch_embed.proj.weight"])
    call(
        monkeypatch,
        TOOL,
        *arguments(data, Path("scored"), "--eval-only", **{"train__init_checkpoint": "run/best.pt"}),
    )
    assert json.loads(Path("scored/results.json").read_text()) == {"validation": results["best"]["scores"]}


def test_variants_of_imagenet_are_scored_beside_the_validation_images(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(0)
    model = Classifier(64, 2, 2, num_classes=1000, image_size=56)
    torch.save({"model": model.state_dict()}, tmp_path / "in1k.pt")
    write_classes(tmp_path / "v2", [str(row) for row in range(1000)])
    names = {"train__init_checkpoint": str(tmp_path / "in1k.pt"), "dataloader__validation": None}
    command = arguments(data, Path("scored"), "--eval-only", "--variant", f"v2={tmp_path / 'v2'}", **names)
    at = command.index("--data")
    call(monkeypatch, TOOL, *command[:at], *command[at + 2 :])
    results = json.loads(Path("scored/results.json").read_text())
    assert list(results) == ["v2"]
    assert results["v2"]["raw"]["images"] == 1000
    assert 0 <= results["v2"]["raw"]["top1"] < results["v2"]["raw"]["top5"] < 5


def without_classes(data: Path) -> list[str]:
    (data / "flat").mkdir()
    (data / "train" / CLASSES[0] / "000.png").rename(data / "flat/0.png")
    return [f"--train-data={data / 'flat'}"]


def one_class(data: Path) -> list[str]:
    (data / "one").mkdir()
    (data / "train" / CLASSES[0]).rename(data / "one" / "disc")
    return [f"--train-data={data / 'one'}"]


def other_classes(data: Path) -> list[str]:
    (data / "val" / CLASSES[0]).rename(data / "val" / "yellow cube")
    return []


def no_val(data: Path) -> list[str]:
    (data / "val").rename(data / "test")
    return []


@pytest.mark.parametrize(
    ("prepare", "changes", "sentence"),
    [
        (without_classes, {}, "flat/0.png lies in no class folder; "),
        (one_class, {}, "holds one class only, disc; a classifier needs two class folders or more"),
        (other_classes, {}, "the classes of training and validation differ: blue disc only in "),
        (no_val, {}, "holds no folder val; it needs train/<class>/... and val/<class>/..."),
        (
            None,
            {"model__num_classes": 5},
            "model.num_classes=5, but there are 3 class folders; pass model.num_classes=3, or",
        ),
        (None, {"model__image_size": 60}, "image_size=60 px is no multiple of patch_size=14 px"),
        (None, {"train__init_checkpoint": "nowhere.pt"}, "checkpoint nowhere.pt does not exist; correct train.init_checkpoint"),
        (None, {"model__embed_dim": 96, "train__init_checkpoint": "student.pt"}, "has a width of 64 and the classifier 96;"),
        (
            None,
            {"train__batch": 13, "train__accumulate": 2},
            "train.batch=13 does not split over 1 processes x train.accumulate=",
        ),
        (None, {"train__init_checkpoint": None}, "train.init_checkpoint names no weights; pass train.init_checkpoint=FILE, or"),
        (None, {"train__ema__decay": 1.5}, "train.ema.decay=1.5 must be at least 0 and below 1"),
        (None, {"train__label_smoothing": 1.0}, "train.label_smoothing=1.0 must be at least 0 and below 1"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_status_2(
    prepare: object,
    changes: dict[str, object],
    sentence: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    student(tmp_path)
    options = prepare(data) if callable(prepare) else []
    with pytest.raises(SystemExit) as stopped:
        finetune(monkeypatch, data, *options, **changes)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1
    assert not list(Path("run").glob("checkpoint*"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--variant", "v3=x", "--eval-only"], "error: --variant v3=x: write NAME=FOLDER, with NAME one of imagenet, v2"),
        (["--variant", "v2=x"], "error: --variant is for --eval-only; add that"),
        (["--eval-only"], "error: train.init_checkpoint names no weights; pass train.init_checkpoint=FILE\n"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(
    options: list[str], sentence: str, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    named = {"train__init_checkpoint": "x.pt"} if "v3=x" in options else {}
    with pytest.raises(SystemExit):
        finetune(monkeypatch, data, *options, **named)
    assert capsys.readouterr().err.startswith(sentence)
