"""The scoring tool as a user calls it, and as the module that training starts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog

from eva02_det.evaluation.coco import CocoEvaluator
from eva02_det.evaluation.halves import half
from tests.evaluation import scenes
from tests.evaluation.feeding import NAME, feed, register

ROOT = Path(__file__).resolve().parents[2]
TOOL = [sys.executable, str(ROOT / "tools" / "score_predictions.py")]
MODULE = [sys.executable, "-m", "eva02_det.evaluation.score"]


def call(command: list[str], *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder that a deferred evaluation left, and the results as a file."""
    folder = tmp_path_factory.mktemp("score")
    truth = scenes.ground_truth(3)
    register(folder, truth)
    results = scenes.detections(truth, 4)
    (folder / "results.json").write_text(json.dumps(results))
    evaluator = CocoEvaluator(NAME, output_dir=str(folder / "run"))
    evaluator.deferred = True
    assert feed(evaluator, results).evaluate() == {}
    MetadataCatalog.remove(NAME)
    return folder


def test_the_module_scores_the_folder_and_shows_the_table(run: Path):
    done = call(MODULE, run / "run")
    assert done.returncode == 0, done.stderr
    written = json.loads((run / "run" / "results.json").read_text())
    assert f"bbox on {NAME} (val), at most 100 detections per image and class, percent" in done.stdout
    assert f"{written['segm']['AP']:.3f}" in done.stdout
    assert "class 7" in done.stdout


def test_the_tool_scores_results_and_a_part_of_the_images(run: Path):
    (run / "ids.json").write_text("[1, 2, 3]")
    options = ["--annotations", run / "truth.json", "--benchmark", "coco", "--tasks", "segm", "--max-detections", 1, 10, 50]
    done = call(
        TOOL, run / "results.json", *options, "--image-ids", run / "ids.json", "--area-bins", "fine", "--out", run / "out"
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((run / "out" / "evaluation.json").read_text())
    assert (record["images"], record["max_detections"]) == (3, [1, 10, 50])
    assert list(record["metrics"]) == ["segm"]
    assert "AR50" in record["metrics"]["segm"]
    assert "AP16-24" in done.stdout


def test_a_fixed_half_of_the_images_is_scored_alone(run: Path):
    done = call(TOOL, run / "run", "--half", "b", "--out", run / "half")
    assert done.returncode == 0, done.stderr
    record = json.loads((run / "half" / "evaluation.json").read_text())
    (run / "half.json").write_text(json.dumps(half(range(1, 7), "b")))
    listed = call(TOOL, run / "run", "--image-ids", run / "half.json", "--out", run / "listed")
    assert listed.returncode == 0, listed.stderr
    assert record["images"] == 3
    assert record["metrics"] == json.loads((run / "listed" / "evaluation.json").read_text())["metrics"]


def test_wrong_input_is_one_sentence_and_status_2(run: Path):
    done = call(TOOL, run / "results.json")
    assert done.returncode == 2
    assert "--annotations FILE and --benchmark" in done.stderr
    assert len(done.stderr.splitlines()) == 1
