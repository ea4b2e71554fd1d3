"""tools/visualize.py as a user calls it: a folder of pictures and a page, or one sentence and status 2."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from projects.demo.scenes import write_scenes

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "visualize.py"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, train=0, val=3, pixels=64)
    return folder


def call(*arguments: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def files_of(scenes: Path) -> list[object]:
    return ["--json", scenes / "annotations" / "instances_val.json", "--images", scenes / "val"]


def test_truth_and_predictions_of_a_coco_file_become_pictures_and_a_page(scenes: Path, tmp_path: Path):
    truth = json.loads((scenes / "annotations" / "instances_val.json").read_text())["annotations"]
    results = [{key: a[key] for key in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 0.9} for a in truth]
    (tmp_path / "results.json").write_text(json.dumps(results))
    done = call(*files_of(scenes), "--predictions", tmp_path / "results.json", "--out", tmp_path / "out", "--limit", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(str(tmp_path / "out" / "index.html"))
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 2
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<figure>") == 2
    assert "2 of 3" in page


def test_a_data_set_below_the_root_is_drawn_by_its_name(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(scenes.parent))
    name = f"{scenes.name}_val"
    monkeypatch.setattr(sys, "argv", ["visualize.py", "--data", name, "--out", str(tmp_path)])
    runpy.run_path(str(TOOL), run_name="__main__")
    assert len(list(tmp_path.glob("*.jpg"))) == 3
    assert name in (tmp_path / "index.html").read_text()


def test_bad_input_ends_the_process_with_one_sentence_and_status_two(scenes: Path, tmp_path: Path):
    done = call(*files_of(scenes), "--predictions", tmp_path / "absent.json", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: result file ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "nowhere_val"], "'nowhere_val' is not known"),
        (["--data", "coco_2017_val"], "coco/annotations/instances_val2017.json"),
        (["--json", "x.json"], "--json also needs --images"),
        (["--json", "x.json", "--images", "SCENES/val"], "x.json"),
        (["--json", "SCENES/annotations/instances_val.json", "--images", "missing"], "missing"),
        (["--json", "SCENES/annotations/instances_val.json", "--images", "SCENES/val", "--limit", "0"], "limit of 0"),
        (["--json", "SCENES/annotations/instances_val.json", "--images", "SCENES/val", "--predictions", "B"], "as JSON"),
    ],
    ids=["unknown name", "absent set", "no images", "absent file", "absent folder", "no pictures asked for", "broken results"],
)
def test_each_bad_input_is_named(
    arguments: list[str],
    sentence: str,
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    (tmp_path / "B").write_text("{")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "empty"))
    given = [argument.replace("SCENES", str(scenes)) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["visualize.py", *given, "--out", "out"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name="__main__")
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert printed.startswith("error: ")
    assert sentence in printed
    assert not (tmp_path / "out").exists()
