"""tools/visualize.py as a user calls it: a folder of pictures and a page, or one sentence and status 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from projects.demo.scenes import write_scenes

ROOT = Path(__file__).resolve().parents[2]
COCO = Path(os.environ.get("DETECTRON2_DATASETS", ROOT.parent / "shared" / "datasets")).resolve()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, train=0, val=3, pixels=64)
    return folder


def call(*arguments: object, datasets: Path | None = None) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if datasets:
        environment["DETECTRON2_DATASETS"] = str(datasets)
    command = [sys.executable, str(ROOT / "tools" / "visualize.py"), *map(str, arguments)]
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


@pytest.mark.skipif(not (COCO / "coco" / "annotations" / "instances_val2017.json").is_file(), reason=f"no COCO under {COCO}")
def test_a_registered_data_set_is_drawn_by_its_name(tmp_path: Path):
    done = call("--data", "coco_2017_val", "--out", tmp_path, "--limit", 3, datasets=COCO)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.jpg"))) == 3
    assert "coco_2017_val" in (tmp_path / "index.html").read_text()


def test_bad_input_is_one_sentence_and_status_two(scenes: Path, tmp_path: Path):
    out = ["--out", tmp_path / "out"]
    (tmp_path / "bad.json").write_text("{")
    calls = {
        "no data set is called 'nowhere'": ["--data", "nowhere", *out],
        "coco/annotations/instances_val2017.json": ["--data", "coco_2017_val", *out],
        "--json also needs --images": ["--json", "x.json", *out],
        "x.json does not exist": ["--json", "x.json", "--images", scenes / "val", *out],
        "missing is not a folder": ["--json", "x.json", "--images", tmp_path / "missing", *out],
        "bad.json cannot be read as JSON": [*files_of(scenes), "--predictions", tmp_path / "bad.json", *out],
        "limit of 0": [*files_of(scenes), "--limit", 0, *out],
    }
    for sentence, arguments in calls.items():
        done = call(*arguments, datasets=tmp_path / "empty")
        assert done.returncode == 2, (sentence, done.stderr)
        assert sentence in done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
