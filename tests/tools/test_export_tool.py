"""tools/export.py as a user calls it: a model folder, an ONNX file, or one sentence."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from eva02_det.engine.model_folder import load_folder
from tests.engine.tiny_detector import CLASSES, save_checkpoint, save_config, tiny_config, write_dataset

TOOL = Path(__file__).resolve().parents[2] / "tools" / "export.py"
BOTH = ["--config-file", "tiny.yaml", "--checkpoint", "w.pth"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds tiny.yaml, w.pth and the data set tiny."""
    root = tmp_path_factory.mktemp("export_tool")
    write_dataset(root, 1)
    config = tiny_config()
    save_config(config, root)
    save_checkpoint(config, root / "w.pth", averaged_seed=3)
    return root


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(home))


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, arguments)])
    runpy.run_path(str(TOOL), run_name="__main__")


def test_a_folder_and_an_onnx_file_in_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    call(monkeypatch, *BOTH, "--out", tmp_path / "out", "--ema", "--onnx", "--size", "32x64", "protocol=coco_system")
    description = load_folder(tmp_path / "out")
    assert description.classes == CLASSES
    assert (description.protocol["name"], description.protocol["averaged_weights"]) == ("coco_system", True)
    assert description.provenance["overrides"] == ["protocol=coco_system"]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["README.md", "backbone_32x64.onnx", "config.json", "model.safetensors"]
    printed = capsys.readouterr().out
    assert "differs from torch by p2 " in printed


def test_class_names_are_taken_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    call(monkeypatch, *BOTH, "--out", tmp_path / "out", "--classes", tmp_path / "names.txt")
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (content["classes"], content["category_ids"]) == (["a", "b", "c", "d", "e"], None)


def test_a_leak_card_goes_into_the_folder_and_into_the_model_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    numbers = {"images": 2, "of_images": 20, "instances": 9, "of_instances": 90}
    comparison = {
        "evaluation": {"name": "lvis_v1_val", "images": 20, "instances": 90, "digest": "ab"},
        "corpora": [{"name": "coco", "source": "coco.json", "images": 5, "read": 5, "unreadable": 0}],
        "method": {"stages": ["id"]},
        "pairs": {"confirmed": 2, "not_confirmed": 0},
        **{"affected": {"coco": numbers, "any": numbers}, "image_ids": {"coco": [3, 4], "any": [3, 4]}, "limits": []},
    }
    (tmp_path / "card.json").write_text(json.dumps({"format": 1, "comparisons": [comparison]}))
    call(monkeypatch, *BOTH, "--out", tmp_path / "out", "--leak-card", tmp_path / "card.json")
    assert json.loads((tmp_path / "out" / "leak_card.json").read_text())["comparisons"] == [comparison]
    assert "coco holds 2 of 20 (10.0 %) images of lvis_v1_val" in (tmp_path / "out" / "README.md").read_text()
    assert load_folder(tmp_path / "out").classes == CLASSES
    call(monkeypatch, *BOTH, "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert "leak_card" not in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config-file", "tiny.yaml"], "give --config-file FILE and --checkpoint FILE"),
        (["--model", "somewhere"], "--model DIR with --onnx"),
        (["--model", "somewhere", "--onnx", "protocol=plain"], "--model DIR with --onnx"),
        (["--model", "somewhere", "--onnx", "--size", "32x32"], "no model folder"),
        ([*BOTH, "--onnx", "--size", "big"], "--size big is no height x width"),
        ([*BOTH, "--onnx", "--size", "33x32"], "multiples of 32"),
        ([*BOTH, "protocol=best"], "best is not known; choose one of plain"),
        ([*BOTH, "--classes", "absent.txt"], "absent.txt"),
        ([*BOTH, "--leak-card", "absent.json"], "there is no leak card absent.json"),
    ],
)
def test_bad_input_is_one_sentence_and_status_two(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, *arguments, "--out", tmp_path / "out")
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert words in said
