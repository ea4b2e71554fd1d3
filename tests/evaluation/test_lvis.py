"""LVIS's evaluator: the numbers of lvis-api, its limits, parts of a data set, what the files say."""

import csv
import json

import pytest
from detectron2.data import MetadataCatalog

from eva02_det.evaluation.lvis import LvisEvaluator
from eva02_det.evaluation.outcome import METRICS_FILE, RECORD_FILE, RESULTS_FILE, TABLE_FILE
from eva02_det.utils.errors import UserError
from tests.evaluation import scenes
from tests.evaluation.feeding import NAME, feed, register
from tests.evaluation.reference import lvis_numbers


@pytest.fixture
def truth(tmp_path):
    truth = scenes.federated_truth(3)
    register(tmp_path, truth, split="minival")
    yield truth
    MetadataCatalog.remove(NAME)


def expected_metrics(folder, truth: dict, results: list[dict], task: str, limit: int = 300) -> dict:
    numbers = lvis_numbers(folder, truth, results, task, limit)
    return {name: value for name, value in numbers.items() if isinstance(name, str)}


@pytest.mark.parametrize("limit", [20, 300])
def test_one_pass_gives_lvis_apis_thirteen_numbers_of_boxes_and_masks(truth, tmp_path, limit):
    results = scenes.detections(truth, 4)
    metrics = feed(LvisEvaluator(NAME, max_detections=limit), results).evaluate()
    assert list(metrics) == ["bbox", "segm"]
    for task, found in metrics.items():
        assert len(found) == 13
        assert found == pytest.approx(expected_metrics(tmp_path, truth, results, task, limit), abs=1e-9, nan_ok=True)


def test_named_images_are_scored_by_the_same_rules(truth, tmp_path):
    results = scenes.detections(truth, 4)
    images = [1, 3, 5]
    part = {**truth, "images": [image for image in truth["images"] if image["id"] in images]}
    part["annotations"] = [one for one in truth["annotations"] if one["image_id"] in images]
    mine = [one for one in results if one["image_id"] in images]
    found = feed(LvisEvaluator(NAME, image_ids=images), results).evaluate()
    for task in ("bbox", "segm"):
        assert found[task] == pytest.approx(expected_metrics(tmp_path, part, mine, task), abs=1e-9, nan_ok=True)


def test_files_name_the_data_set_and_its_part_and_hold_ap_by_class(truth, tmp_path, caplog):
    out = tmp_path / "out"
    with caplog.at_level("INFO"):
        metrics = feed(LvisEvaluator(NAME, output_dir=str(out), area_bins="fine"), scenes.detections(truth, 4)).evaluate()
    assert not (out / RESULTS_FILE).exists()  # six million detections would be gigabytes
    assert f"bbox on {NAME} (minival), at most 300 detections per image" in caplog.text
    written = json.loads((out / METRICS_FILE).read_text())
    assert written["segm"]["AP"] == metrics["segm"]["AP"]
    assert {"APr", "APc", "APf", "AP0-8", "AP256-", "AR48-64"} <= written["bbox"].keys()
    assert written["bbox"]["AP256-"] is None  # no object is so large, and JSON has no NaN
    record = json.loads((out / RECORD_FILE).read_text())
    assert (record["dataset"], record["split"], record["images"], record["images_evaluated"]) == (NAME, "minival", 6, 6)
    with (out / TABLE_FILE).open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert {(line["dataset"], line["split"]) for line in lines} == {(NAME, "minival")}
    by_class = {line["class"]: line["value"] for line in lines if line["class"] and line["task"] == "segm"}
    assert list(by_class) == [f"class {category}" for category in scenes.CLASSES]
    assert float(by_class["class 2"]) == record["class_ap"]["segm"]["class 2"]
    assert by_class["class 11"] == ""  # undefined


def test_annotations_that_are_not_lvis_are_refused(tmp_path):
    register(tmp_path, scenes.ground_truth(3))
    with pytest.raises(UserError, match=r"truth.json.*neg_category_ids.*CocoEvaluator"):
        feed(LvisEvaluator(NAME), []).evaluate()
    MetadataCatalog.remove(NAME)
