"""The evaluator: from detector outputs to metrics and files, on one rank and on two."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from pycocotools import mask as coco_mask

from eva02_det.evaluation.average_precision import class_ap, run_coco, summary
from eva02_det.evaluation.coco import RESULTS_FILE, CocoEvaluator
from eva02_det.utils.errors import UserError
from tests.d2lite.two_ranks import on_two_ranks
from tests.evaluation import scenes

NAME = "evaluator_test"


def register(folder: Path, truth: dict[str, Any]) -> None:
    file = folder / "truth.json"
    file.write_text(json.dumps(truth))
    contiguous = {category: index for index, category in enumerate(scenes.CLASSES)}
    MetadataCatalog.get(NAME).set(json_file=str(file), thing_dataset_id_to_contiguous_id=contiguous)


@pytest.fixture
def truth(tmp_path):
    truth = scenes.ground_truth(3)
    register(tmp_path, truth)
    yield truth
    MetadataCatalog.remove(NAME)


def outputs(results: list[dict], image: int, masks: bool = True, mask_scores: bool = True) -> Instances:
    """COCO results of an image as a detector gives them."""
    mine = [one for one in results if one["image_id"] == image]
    found = Instances((scenes.SIDE, scenes.SIDE))
    boxes = torch.tensor([one["bbox"] for one in mine], dtype=torch.float64).reshape(-1, 4)
    found.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
    found.scores = torch.tensor([one["score"] for one in mine], dtype=torch.float64)
    found.pred_classes = torch.tensor([scenes.CLASSES.index(one["category_id"]) for one in mine], dtype=torch.int64)
    if masks:
        bitmaps = [coco_mask.decode(one["segmentation"]) for one in mine]
        found.pred_masks = torch.from_numpy(np.array(bitmaps, dtype=bool).reshape(-1, scenes.SIDE, scenes.SIDE))
    if mask_scores:
        found.mask_scores = torch.tensor([one["mask_score"] for one in mine], dtype=torch.float64)
    return found


def feed(evaluator: CocoEvaluator, results: list[dict], images: range, **fields: bool) -> CocoEvaluator:
    evaluator.reset()
    for image in images:
        evaluator.process([{"image_id": image}], [{"instances": outputs(results, image, **fields)}])
    return evaluator


IMAGES = range(1, 7)


def test_one_pass_gives_the_numbers_of_boxes_and_of_masks_with_their_own_scores(truth):
    results = scenes.detections(truth, 4)
    metrics = feed(CocoEvaluator(NAME), results, IMAGES).evaluate()
    assert list(metrics) == ["bbox", "segm"]
    for task, found in metrics.items():
        evaluation = run_coco(truth, results, task, backend="pycocotools")
        expected = summary(evaluation) | {f"AP-class {n}": value for n, value in class_ap(evaluation).items()}
        assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)
    plain = feed(CocoEvaluator(NAME), results, IMAGES, mask_scores=False).evaluate()
    assert plain["bbox"] == pytest.approx(metrics["bbox"], nan_ok=True)
    assert plain["segm"]["AP"] != metrics["segm"]["AP"]


def test_tasks_are_those_that_detector_and_ground_truth_have_unless_stated(truth, tmp_path):
    results = scenes.detections(truth, 4)
    assert list(feed(CocoEvaluator(NAME), results, IMAGES, masks=False, mask_scores=False).evaluate()) == ["bbox"]
    assert list(feed(CocoEvaluator(NAME, tasks=["segm"]), results, IMAGES).evaluate()) == ["segm"]
    for one in truth["annotations"]:
        del one["segmentation"]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert list(feed(CocoEvaluator(NAME), results, IMAGES).evaluate()) == ["bbox"]


def test_predictions_are_written_whole_and_in_cocos_format(truth, tmp_path):
    results = scenes.detections(truth, 4)
    feed(CocoEvaluator(NAME, output_dir=str(tmp_path / "out")), results, IMAGES).evaluate()
    assert [file.name for file in (tmp_path / "out").iterdir()] == [RESULTS_FILE]
    written = json.loads((tmp_path / "out" / RESULTS_FILE).read_text())
    by_image = sorted(results, key=lambda one: one["image_id"])
    assert written == by_image


def test_a_test_set_writes_predictions_and_says_that_there_is_no_ap(truth, tmp_path, caplog):
    del truth["annotations"]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    found = [{"image_id": 1, "category_id": 7, "bbox": [1.0, 2, 3, 4], "score": 0.5}]
    fields = {"masks": False, "mask_scores": False}
    with caplog.at_level(logging.WARNING):
        assert feed(CocoEvaluator(NAME, output_dir=str(tmp_path)), found, IMAGES, **fields).evaluate() == {}
    assert "no ground truth" in caplog.text
    assert str(tmp_path) in caplog.text
    assert json.loads((tmp_path / RESULTS_FILE).read_text()) == found


def test_a_detector_that_finds_nothing_scores_zero(truth):
    metrics = feed(CocoEvaluator(NAME), [], IMAGES).evaluate()
    assert metrics["bbox"]["AP"] == 0
    assert metrics["segm"]["AP"] == 0
    assert math.isnan(metrics["bbox"]["AP-class 11"])


def test_a_part_of_a_data_set_is_scored_against_the_images_that_were_seen(truth):
    part = range(1, 4)
    results = [one for one in scenes.detections(truth, 4) if one["image_id"] in part]
    seen = {**truth, "images": [image for image in truth["images"] if image["id"] in part]}
    seen["annotations"] = [one for one in truth["annotations"] if one["image_id"] in part]
    expected = summary(run_coco(seen, results, "bbox", backend="pycocotools"))
    found = feed(CocoEvaluator(NAME, seen_only=True), results, part).evaluate()["bbox"]
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert feed(CocoEvaluator(NAME), results, part).evaluate()["bbox"]["AR100"] < found["AR100"]


def test_reset_forgets_the_pass_before(truth):
    results = scenes.detections(truth, 4)
    evaluator = feed(CocoEvaluator(NAME), results, IMAGES)
    once = evaluator.evaluate()
    assert feed(evaluator, results, IMAGES).evaluate()["bbox"] == pytest.approx(once["bbox"], nan_ok=True)
    evaluator.reset()
    assert evaluator.evaluate() == {}


def test_a_detector_of_more_classes_than_the_data_set_is_refused(truth):
    evaluator = CocoEvaluator(NAME)
    found = outputs([], 1)
    one = Instances(found.image_size, pred_boxes=Boxes(torch.ones(1, 4)), scores=torch.ones(1), pred_classes=torch.tensor([4]))
    evaluator.process([{"image_id": 1}], [{"instances": one}])
    with pytest.raises(UserError, match=r"class 4 .* 4 classes"):
        evaluator.evaluate()


def test_wrong_options_are_named():
    with pytest.raises(UserError, match="fastest"):
        CocoEvaluator(NAME, backend="fastest")
    with pytest.raises(UserError, match="keypoints"):
        CocoEvaluator(NAME, tasks=["keypoints"])
    with pytest.raises(UserError, match="one data set"):
        CocoEvaluator(["a", "b"])
    assert CocoEvaluator([NAME]).dataset_name == NAME


def half(folder: Path) -> dict | None:
    """What a rank returns that has seen its half of the images."""
    truth = scenes.ground_truth(3)
    register(folder, truth)
    images = range(1, 4) if comm.get_rank() == 0 else range(4, 7)
    return feed(CocoEvaluator(NAME), scenes.detections(truth, 4), images).evaluate()


@pytest.mark.distributed
def test_two_ranks_together_score_like_one(truth, tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    first, second = on_two_ranks(half, tmp_path, tmp_path)
    alone = feed(CocoEvaluator(NAME), scenes.detections(truth, 4), IMAGES).evaluate()
    assert second is None
    assert first["bbox"] == pytest.approx(alone["bbox"], nan_ok=True)
    assert first["segm"] == pytest.approx(alone["segm"], nan_ok=True)
