"""COCO's evaluator: from detector outputs to metrics and files, on one rank and on two."""

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from eva02_det.evaluation.coco import RESULTS_FILE, CocoEvaluator
from eva02_det.evaluation.outcome import METRICS_FILE, RECORD_FILE, TABLE_FILE
from eva02_det.evaluation.score import score_folder
from eva02_det.evaluation.shards import FOLDER
from eva02_det.utils.errors import UserError
from tests.d2lite.two_ranks import on_two_ranks
from tests.evaluation import scenes
from tests.evaluation.feeding import IMAGES, NAME, feed, outputs, register, shown
from tests.evaluation.reference import coco_numbers


@pytest.fixture
def truth(tmp_path):
    truth = scenes.ground_truth(3)
    register(tmp_path, truth)
    yield truth
    MetadataCatalog.remove(NAME)


def expected_metrics(truth: dict, results: list[dict], task: str) -> dict:
    """pycocotools' numbers under the names that the evaluator gives."""
    numbers = coco_numbers(truth, results, task)
    return {f"AP-class {name}" if isinstance(name, int) else name: value for name, value in numbers.items()}


def test_one_pass_gives_the_numbers_of_boxes_and_of_masks_with_their_own_scores(truth):
    results = scenes.detections(truth, 4)
    metrics = feed(CocoEvaluator(NAME), results).evaluate()
    assert list(metrics) == ["bbox", "segm"]
    for task, found in metrics.items():
        assert found == pytest.approx(expected_metrics(truth, results, task), abs=1e-9, nan_ok=True)
    plain = feed(CocoEvaluator(NAME), results, mask_scores=False).evaluate()
    assert plain["bbox"] == pytest.approx(metrics["bbox"], nan_ok=True)
    assert plain["segm"]["AP"] != metrics["segm"]["AP"]


@pytest.mark.parametrize("images_per_part", [1, 2, 1000])
def test_predictions_through_files_score_like_those_in_memory(truth, tmp_path, monkeypatch, images_per_part):
    monkeypatch.setattr("eva02_det.evaluation.evaluator.IMAGES_PER_PART", images_per_part)
    results = scenes.detections(truth, 4)
    in_memory = feed(CocoEvaluator(NAME), results).evaluate()
    through_files = feed(CocoEvaluator(NAME, output_dir=str(tmp_path / "out")), results).evaluate()
    for task in ("bbox", "segm"):
        assert through_files[task] == pytest.approx(in_memory[task], abs=1e-9, nan_ok=True)


def test_tasks_are_those_that_detector_and_ground_truth_have_unless_stated(truth, tmp_path):
    results = scenes.detections(truth, 4)
    assert list(feed(CocoEvaluator(NAME), results, masks=False, mask_scores=False).evaluate()) == ["bbox"]
    assert list(feed(CocoEvaluator(NAME, tasks=["segm"]), results).evaluate()) == ["segm"]
    with pytest.raises(UserError, match="predictions have no masks"):
        feed(CocoEvaluator(NAME, tasks=["segm"]), results, masks=False, mask_scores=False).evaluate()
    for one in truth["annotations"]:
        del one["segmentation"]
    register(tmp_path, truth)
    assert list(feed(CocoEvaluator(NAME), results).evaluate()) == ["bbox"]
    with pytest.raises(UserError, match="ground truth has no masks"):
        feed(CocoEvaluator(NAME, tasks=["segm"]), results).evaluate()


def test_predictions_are_written_whole_and_in_cocos_format(truth, tmp_path):
    results = scenes.detections(truth, 4)
    out = tmp_path / "out"
    feed(CocoEvaluator(NAME, output_dir=str(out)), results).evaluate()
    assert {file.name for file in out.iterdir()} == {RESULTS_FILE, METRICS_FILE, TABLE_FILE, RECORD_FILE, FOLDER}
    written = json.loads((out / RESULTS_FILE).read_text())
    assert written == sorted(results, key=lambda one: one["image_id"])
    feed(CocoEvaluator(NAME, output_dir=str(tmp_path / "without"), write_results=False), results).evaluate()
    assert not (tmp_path / "without" / RESULTS_FILE).exists()


def test_a_test_set_writes_predictions_and_says_that_there_is_no_ap(truth, tmp_path, caplog):
    del truth["annotations"]
    register(tmp_path, truth)
    found = [{"image_id": 1, "category_id": 7, "bbox": [1.0, 2, 3, 4], "score": 0.5}]
    evaluator = CocoEvaluator(NAME, output_dir=str(tmp_path / "out"))
    with caplog.at_level(logging.WARNING):
        assert feed(evaluator, found, masks=False, mask_scores=False).evaluate() == {}
    assert "no ground truth" in caplog.text
    assert str(tmp_path / "out") in caplog.text
    assert json.loads((tmp_path / "out" / RESULTS_FILE).read_text()) == found
    assert json.loads((tmp_path / "out" / METRICS_FILE).read_text()) == {}


def test_a_detector_that_finds_nothing_scores_zero(truth):
    metrics = feed(CocoEvaluator(NAME), []).evaluate()
    assert metrics["bbox"]["AP"] == 0
    assert metrics["segm"]["AP"] == 0
    assert math.isnan(metrics["bbox"]["AP-class 11"])


def part_of(truth: dict, images: range) -> dict:
    seen = {**truth, "images": [image for image in truth["images"] if image["id"] in images]}
    return {**seen, "annotations": [one for one in truth["annotations"] if one["image_id"] in images]}


def test_a_part_of_a_data_set_is_scored_against_the_images_that_were_seen(truth, caplog):
    part = range(1, 4)
    results = [one for one in scenes.detections(truth, 4) if one["image_id"] in part]
    expected = expected_metrics(part_of(truth, part), results, "bbox")
    found = feed(CocoEvaluator(NAME, seen_only=True), results, part).evaluate()["bbox"]
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert not caplog.records
    assert feed(CocoEvaluator(NAME), results, part).evaluate()["bbox"]["AR100"] < found["AR100"]
    assert "3 of 6 images of evaluator_test_val are not among the predictions" in caplog.text


def test_named_images_are_scored_alone(truth):
    results = scenes.detections(truth, 4)
    part = range(2, 5)
    expected = expected_metrics(part_of(truth, part), [one for one in results if one["image_id"] in part], "segm")
    found = feed(CocoEvaluator(NAME, image_ids=list(part)), results).evaluate()["segm"]
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)
    with pytest.raises(UserError, match=r"1 of image_ids .* 99"):
        feed(CocoEvaluator(NAME, image_ids=[2, 99]), results).evaluate()


def test_reset_forgets_the_pass_before(truth):
    results = scenes.detections(truth, 4)
    evaluator = feed(CocoEvaluator(NAME), results)
    once = evaluator.evaluate()
    assert feed(evaluator, results).evaluate()["bbox"] == pytest.approx(once["bbox"], nan_ok=True)
    evaluator.reset()
    assert evaluator.evaluate() == {}


def test_what_cannot_be_scored_is_said(truth, tmp_path):
    evaluator = CocoEvaluator(NAME)
    found = outputs([], 1)
    one = Instances(found.image_size, pred_boxes=Boxes(torch.ones(1, 4)), scores=torch.ones(1), pred_classes=torch.tensor([4]))
    evaluator.process([{"image_id": 1}], [{"instances": one}])
    with pytest.raises(UserError, match=r"class 4 .* 4 classes"):
        evaluator.evaluate()
    one.pred_classes = torch.tensor([0])
    one.scores = torch.tensor([float("nan")])
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": one}])
    with pytest.raises(UserError, match="1 numbers of the scores are not finite"):
        evaluator.evaluate()
    with pytest.raises(UserError, match=r"2 of 8 evaluated images are not in .*truth.json \(the first: 77\)"):
        feed(CocoEvaluator(NAME), [], [*IMAGES, 77, 78]).evaluate()


def test_wrong_options_are_named():
    with pytest.raises(UserError, match="fastest"):
        CocoEvaluator(NAME, backend="fastest")
    with pytest.raises(UserError, match="keypoints"):
        CocoEvaluator(NAME, tasks=["keypoints"])
    with pytest.raises(UserError, match="coarse"):
        CocoEvaluator(NAME, area_bins="coarse")
    with pytest.raises(UserError, match="at least 1"):
        CocoEvaluator(NAME, max_detections=[0])
    with pytest.raises(UserError, match="one data set"):
        CocoEvaluator(["a", "b"])
    assert CocoEvaluator([NAME]).dataset_name == NAME
    with pytest.raises(UserError, match="nowhere_val"):
        CocoEvaluator("nowhere_val").evaluate()


def half(folder: Path) -> list[dict]:
    """What a rank returns that has seen its half of the images, and image 4 as both: in memory, through files, deferred."""
    truth = scenes.ground_truth(3)
    register(folder, truth)
    results, images = scenes.detections(truth, 4), range(1, 5) if comm.get_rank() == 0 else range(4, 7)
    deferred = CocoEvaluator(NAME, output_dir=str(folder / "deferred"))
    deferred.deferred = True
    evaluators = [CocoEvaluator(NAME), CocoEvaluator(NAME, output_dir=str(folder / "out")), deferred]
    return [shown(evaluator, results, images) for evaluator in evaluators]


@pytest.mark.distributed
def test_two_ranks_together_score_like_one_at_once_or_later(truth, tmp_path):
    first, second = on_two_ranks(half, tmp_path, tmp_path)
    assert second == [{}, {}, {}]
    assert first[2] == {}
    assert [file.name for file in (tmp_path / "deferred").iterdir()] == [FOLDER]
    alone = feed(CocoEvaluator(NAME), scenes.detections(truth, 4)).evaluate()
    for together in (*first[:2], score_folder(tmp_path / "deferred")):
        for task in ("bbox", "segm"):
            assert together[task] == pytest.approx(alone[task], abs=1e-9, nan_ok=True)
    assert json.loads((tmp_path / "deferred" / METRICS_FILE).read_text())["bbox"]["AP"] == pytest.approx(alone["bbox"]["AP"])


def test_scoring_is_deferred_only_where_predictions_are_written(truth):
    evaluator = feed(CocoEvaluator(NAME), [])
    evaluator.deferred = True
    with pytest.raises(UserError, match="output_dir"):
        evaluator.evaluate()
