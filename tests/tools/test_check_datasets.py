"""The tool in a process of its own: words, JSON and exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.data import tiny_coco

TOOL = Path(__file__).resolve().parents[2] / "tools" / "check_datasets.py"


def run(root: Path, *arguments: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "DETECTRON2_DATASETS": str(root), "EVA02_DET_CACHE": str(root / "cache")}
    return subprocess.run(
        [sys.executable, TOOL, *map(str, arguments)], check=False, env=environment, capture_output=True, text=True, timeout=120
    )


def test_a_broken_image_and_an_invalid_annotation_end_in_status_one_and_stand_in_the_report(tmp_path):
    content = tiny_coco.content()
    content["annotations"][0]["category_id"] = 77
    file = tiny_coco.write(tmp_path, "train", content)
    image = tmp_path / "tiny/train/2.jpg"
    image.write_bytes(image.read_bytes()[:600])
    done = run(tmp_path, "--data", file, "--images", image.parent, "--decode", "--json", tmp_path / "report.json")
    assert done.returncode == 1, done.stderr
    assert "1 images broken" in done.stdout
    assert "1 annotations are of a category that the file does not define (the first: annotation 10, category 77)" in done.stdout
    (report,) = json.loads((tmp_path / "report.json").read_text())
    assert [fault["path"] for fault in report["faults"]["broken"]] == [str(image)]
    assert report["is_usable"] is False


def test_sound_sets_end_in_status_zero_and_absent_ones_count_only_if_asked_for(tmp_path):
    (tmp_path / "coco/annotations").mkdir(parents=True)
    written = tiny_coco.write(tmp_path, "val2017", tiny_coco.content(), name="coco")
    (tmp_path / "coco/train2017").mkdir()
    assert written.name == "instances_val2017.json"
    everything, absent = run(tmp_path), run(tmp_path, "coco_2017_val", "coco_2017_train")
    assert everything.returncode == 0, everything.stderr
    assert "coco_2017_val: ok: 3 images, 6 annotations, 2 classes" in everything.stdout
    assert "coco_2017_train: NOT THERE" in everything.stdout
    assert absent.returncode == 1


def test_half_a_custom_set_is_refused_in_one_sentence(tmp_path):
    done = run(tmp_path, "--data", "my.json")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --data and --images belong together")
