"""Predictions scored again later: from a folder or a file of results, under other options, with what is wrong said."""

import json
import shutil
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog

from eva02_det.evaluation.coco import CocoEvaluator
from eva02_det.evaluation.lvis import LvisEvaluator
from eva02_det.evaluation.outcome import METRICS_FILE, RECORD_FILE, RESULTS_FILE
from eva02_det.evaluation.score import score_folder, score_results
from eva02_det.evaluation.shards import FOLDER
from eva02_det.utils.errors import UserError
from tests.evaluation import scenes
from tests.evaluation.feeding import NAME, feed, register


@pytest.fixture(params=["coco", "lvis"])
def run(request, tmp_path):
    """(folder of an evaluation, its metrics, annotation file, benchmark)."""
    federated = request.param == "lvis"
    truth = (scenes.federated_truth if federated else scenes.ground_truth)(3)
    file = register(tmp_path, truth)
    evaluator = (LvisEvaluator if federated else CocoEvaluator)(NAME, output_dir=str(tmp_path / "run"), write_results=True)
    metrics = feed(evaluator, scenes.detections(truth, 4)).evaluate()
    MetadataCatalog.remove(NAME)
    return tmp_path / "run", metrics, file, request.param


def same(found: dict, expected: dict) -> bool:
    return all(found[task] == pytest.approx(expected[task], abs=1e-9, nan_ok=True) for task in expected)


def test_a_folder_scores_the_same_again_without_the_data_sets_registration(run, tmp_path):
    folder, metrics, _, _ = run
    assert same(score_folder(folder, out=tmp_path / "again"), metrics)
    assert json.loads((tmp_path / "again" / METRICS_FILE).read_text()) == json.loads((folder / METRICS_FILE).read_text())


def test_the_references_score_the_folder_alike(run):
    folder, metrics, _, benchmark = run
    for backend in ("pycocotools", "lvis" if benchmark == "lvis" else "faster-coco-eval"):
        if backend == "lvis":
            pytest.importorskip("lvis", exc_type=ImportError)
        assert same(score_folder(folder, backend=backend), metrics)
        assert json.loads((folder / RECORD_FILE).read_text())["backend"].startswith(backend)


def test_the_file_of_results_scores_like_the_folder_it_came_from(run, tmp_path):
    folder, metrics, annotations, benchmark = run
    found = score_results(folder / RESULTS_FILE, annotations, benchmark, out=tmp_path / "out")
    assert same(found, metrics)
    assert json.loads((tmp_path / "out" / RECORD_FILE).read_text())["dataset"] == "truth"


def test_options_can_differ_from_those_of_the_run(run, tmp_path):
    folder, metrics, _, _ = run
    found = score_folder(folder, out=tmp_path / "out", tasks=["bbox"], area_bins="fine", image_ids=[1, 2])
    assert list(found) == ["bbox"]
    assert "AP0-8" in found["bbox"]
    assert found["bbox"]["AP"] != metrics["bbox"]["AP"]
    assert json.loads((tmp_path / "out" / RECORD_FILE).read_text())["images"] == 2
    with pytest.raises(UserError, match="fastest"):
        score_folder(folder, backend="fastest")


def test_annotations_may_have_moved(run, tmp_path):
    folder, metrics, file, _ = run
    moved = shutil.move(file, tmp_path / "moved.json")
    with pytest.raises(UserError, match=r"truth\.json does not exist"):
        score_folder(folder)
    assert same(score_folder(folder, annotation_file=str(moved)), metrics)


def test_a_shard_that_is_missing_is_an_error_and_no_result_is_left_to_be_taken_for_one(run, tmp_path):
    folder, _, _, _ = run
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    for file in (copy / FOLDER).glob("rank*.json"):
        file.unlink()
    (copy / METRICS_FILE).unlink()
    with pytest.raises(UserError, match="1 of 1 ranks"):
        score_folder(copy)
    assert not (copy / METRICS_FILE).exists()
