"""tools/predict.py as a user calls it: pictures and JSON, a status that tells of unreadable files, one sentence for bad input."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eva02_det.engine.export import export_model
from eva02_det.engine.predictor import Predictor
from eva02_det.engine.video import read_frames, writing
from tests.engine.tiny_detector import drawn_picture, save_checkpoint, save_config, tiny_config, write_dataset

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "predict.py"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds tiny.yaml, w.pth, the exported folder `model`, and photographs in tiny/val."""
    root = tmp_path_factory.mktemp("predict")
    write_dataset(root, 2)
    config = tiny_config()
    config_file, checkpoint = save_config(config, root), save_checkpoint(config, root / "w.pth", averaged_seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        export_model(config_file, checkpoint, root / "model")
    return root


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(home))


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Status of the tool, run in this process."""
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments), "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name="__main__")
    return int(ended.value.code or 0)


def scores(out: Path) -> list[float]:
    return [one["score"] for one in json.loads((out / "predictions.json").read_text())]


def test_a_folder_with_a_broken_file_ends_with_status_one_and_the_rest_done(home: Path, tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.jpg").write_bytes((home / "tiny" / "val" / "0.jpg").read_bytes())
    (folder / "bad.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either, and not meant to be")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, TOOL, folder, "--model", home / "model", "--out", tmp_path / "out", "--score-threshold", "0.6"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("not read: picture ")
    assert "bad.jpg" in done.stderr.splitlines()[-1]
    expected = Predictor.from_folder(home / "model", device="cpu", score_threshold=0.6)(folder / "good.jpg")
    assert scores(tmp_path / "out") == pytest.approx(expected.scores.tolist(), abs=1e-4)
    assert f"{len(expected)} objects in 1 pictures" in done.stdout
    assert "notes.txt" in done.stdout
    with Image.open(folder / "good.jpg") as given, Image.open(tmp_path / "out" / "pictures" / "good.jpg") as drawn:
        assert max(drawn.size) >= max(given.size)
        plain = np.asarray(given.convert("RGB").resize(drawn.size, Image.Resampling.BICUBIC)).astype(int)
        assert (abs(plain - np.asarray(drawn)).max(-1) > 40).mean() > 0.01  # something is painted


def test_config_and_checkpoint_give_what_their_export_gives(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = home / "tiny" / "val"
    assert call(monkeypatch, folder, "--model", "model", "--out", tmp_path / "a") == 0
    assert call(monkeypatch, folder, "--config-file", "tiny.yaml", "--checkpoint", "w.pth", "--out", tmp_path / "b") == 0
    assert scores(tmp_path / "a") == scores(tmp_path / "b")
    assert min(scores(tmp_path / "a")) >= 0.5


def test_every_option_does_something(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    both = ["--config-file", "tiny.yaml", "--checkpoint", "w.pth"]

    def run(name: str, *options: object) -> list[dict]:
        assert call(monkeypatch, "tiny/val", "--limit", 1, "--out", tmp_path / name, *options) == 0
        return json.loads((tmp_path / name / "predictions.json").read_text())

    plain = run("plain", *both)
    assert {one["image_id"] for one in plain} == {1}
    assert not [one for one in plain if "mask_score" in one]
    assert len(run("all", *both, "--score-threshold", 0)) > len(plain) > 0
    assert run("ema", *both, "--ema") != plain
    assert run("tta", *both, "--tta") != plain
    assert run("scales", *both, "--tta-scales", "128,160") != run("tta", *both, "--tta")
    calibrated = run("protocol", "--model", "model", "--protocol", "coco_system")
    assert all("mask_score" in one for one in calibrated)
    assert run("set", *both, "--set", "protocol=coco_system", "--set", "model.roi_heads.num_classes=5") == calibrated
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    run("names", *both, "--classes", tmp_path / "names.txt")
    categories = json.loads((tmp_path / "names" / "images.json").read_text())["categories"]
    assert [category["name"] for category in categories] == ["a", "b", "c", "d", "e"]


def test_a_film_is_annotated_frame_by_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with writing(tmp_path / "film.mp4") as video:
        for number in range(3):
            video.write(np.asarray(drawn_picture(96, 64, number)), number / 10)
    arguments = [tmp_path / "film.mp4", "--model", "model", "--out", tmp_path / "out", "--batch-size", 2]
    assert call(monkeypatch, *arguments) == 0
    pairs = list(zip(read_frames(tmp_path / "film.mp4"), read_frames(tmp_path / "out" / "videos" / "film.mp4"), strict=True))
    assert len(pairs) == 3
    assert all(given.pixels.shape == shown.pixels.shape for given, shown in pairs)
    assert abs(pairs[0][0].pixels.astype(int) - pairs[0][1].pixels).max() > 60
    assert len((tmp_path / "out" / "videos" / "film.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.jpg", "--model", "model"], "nowhere.jpg does not exist"),
        (["tiny/val"], "either --model DIR alone, or --config-file"),
        (["tiny/val", "--config-file", "tiny.yaml"], "either --model"),
        (["tiny/val", "--model", "model", "--checkpoint", "w.pth"], "either --model"),
        (["tiny/val", "--model", "model", "--ema"], "either --model"),
        (["tiny/val", "--model", "tiny"], "no model folder"),
        (["tiny/val", "--model", "model", "--protocol", "best"], "best is not known; choose one of plain"),
        (["tiny/val", "--model", "model", "--tta-scales", "0,9"], "long sides"),
        (["tiny/val", "--model", "model", "--tta-scales", "big"], "'big' is no list of long sides"),
        (["tiny/val", "--model", "model", "--score-threshold", "50"], "score_threshold=50.0"),
        (["tiny/val", "--config-file", "tiny.yaml", "--checkpoint", "absent.pth"], "absent.pth does not exist"),
        (
            ["tiny/val", "--config-file", "tiny.yaml", "--checkpoint", "w.pth", "--set", "model.bakbone=1"],
            "did you mean 'backbone'",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_status_two(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    assert call(monkeypatch, *arguments, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert words in said.splitlines()[-1]
    assert said.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out").exists()
