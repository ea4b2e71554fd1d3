"""AP on subsets of images equals the references' on annotation files that hold these images alone."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog

from eva02_det.evaluation.lvis import LvisEvaluator
from eva02_det.evaluation.subsets import read_answers, score_subsets
from eva02_det.evaluation.truth import read_truth
from eva02_det.utils.errors import UserError
from tests.evaluation import scenes
from tests.evaluation.feeding import NAME, feed, register
from tests.evaluation.oracle import noisy_oracle, part_of
from tests.evaluation.reference import coco_numbers, lvis_numbers

DATASETS = Path(os.environ.get("DETECTRON2_DATASETS", Path(__file__).resolve().parents[3] / "shared" / "datasets"))
LVIS_VAL = DATASETS / "lvis" / "lvis_v1_val.json"
COCO_VAL = DATASETS / "coco" / "annotations" / "instances_val2017.json"
needs_data = pytest.mark.skipif(not LVIS_VAL.is_file() or not COCO_VAL.is_file(), reason=f"no LVIS and COCO below {DATASETS}")


def metrics_alone(numbers: dict) -> dict:
    return {name: value for name, value in numbers.items() if isinstance(name, str)}


@needs_data
def test_on_images_of_coco_train_and_others_the_numbers_are_those_of_lvis_api(tmp_path):
    content = json.loads(LVIS_VAL.read_text())
    ids = {image["id"] for image in content["images"]}
    contaminated = {image["id"] for image in content["images"] if "/train2017/" in image["coco_url"]}
    assert 0 < len(contaminated) < len(ids)
    results = noisy_oracle(content, seed=0)
    (tmp_path / "predictions.json").write_text(json.dumps(results))
    subsets = {"all": ids, "contaminated": contaminated, "clean": ids - contaminated}
    found = score_subsets(LVIS_VAL, tmp_path / "predictions.json", subsets, benchmark="lvis")
    assert list(found) == list(subsets)
    for name, images in subsets.items():
        mine = [one for one in results if one["image_id"] in images]
        for task in ("bbox", "segm"):
            expected = metrics_alone(lvis_numbers(tmp_path, part_of(content, images), mine, task))
            assert found[name][task] == pytest.approx(expected, abs=1e-9, nan_ok=True)
            assert 5 < found[name][task]["AP"] < 95
    assert len({found[name]["bbox"]["AP"] for name in subsets}) == 3


@needs_data
def test_on_any_images_the_numbers_are_those_of_pycocotools(tmp_path):
    content = json.loads(COCO_VAL.read_text())
    ids = sorted(image["id"] for image in content["images"])
    results = noisy_oracle(content, seed=1)
    (tmp_path / "predictions.json").write_text(json.dumps(results))
    subsets = {"some": set(ids[::3]), "others": set(ids[1::2]), "one": {content["annotations"][0]["image_id"]}}
    found = score_subsets(COCO_VAL, tmp_path / "predictions.json", subsets, benchmark="coco")
    for name, images in subsets.items():
        mine = [one for one in results if one["image_id"] in images]
        for task in ("bbox", "segm"):
            expected = metrics_alone(coco_numbers(part_of(content, images), mine, task))
            assert found[name][task] == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.fixture
def run(tmp_path):
    """The folder that an evaluation of LVIS-like scenes left, under a limit of 20; the scenes and the results."""
    truth = scenes.federated_truth(3)
    register(tmp_path, truth)
    results = scenes.detections(truth, 4)
    evaluator = LvisEvaluator(NAME, output_dir=str(tmp_path / "run"), max_detections=20)
    feed(evaluator, results).evaluate()
    yield tmp_path, truth, results
    MetadataCatalog.remove(NAME)


def test_a_folder_of_predictions_is_scored_as_its_evaluator_would_score_these_images(run):
    folder, _, results = run
    found = score_subsets(folder / "truth.json", folder / "run", {"odd": {1, 3, 5}}, benchmark="lvis")
    expected = feed(LvisEvaluator(NAME, image_ids=[1, 3, 5], max_detections=20), results).evaluate()
    assert list(found["odd"]) == ["bbox", "segm"]
    for task, metrics in expected.items():
        assert found["odd"][task] == pytest.approx(metrics, abs=1e-9, nan_ok=True)


def test_limit_and_tasks_can_be_chosen(run):
    folder, truth, results = run
    options = {"benchmark": "lvis", "tasks": ["bbox"], "max_detections": [300]}
    found = score_subsets(folder / "truth.json", folder / "run", {"two": {1, 2}}, **options)
    mine = [one for one in results if one["image_id"] in (1, 2)]
    expected = metrics_alone(lvis_numbers(folder, part_of(truth, {1, 2}), mine, "bbox", 300))
    assert found == {"two": {"bbox": pytest.approx(expected, abs=1e-9, nan_ok=True)}}


def test_where_a_detector_looked_is_known_of_a_folder_alone(run):
    folder, _, results = run
    truth = read_truth(str(folder / "truth.json"), federated=True)
    assert read_answers(folder / "run", truth).seen.tolist() == [0, 1, 2, 3, 4, 5]
    (folder / "results.json").write_text(json.dumps(results))
    answers = read_answers(folder / "results.json", truth)
    assert answers.seen is None
    assert answers.limits == (300,)
    boxes = read_answers(folder / "results.json", truth, tasks=["bbox"])
    assert list(boxes.found) == ["bbox"]


@pytest.mark.parametrize(
    ("subsets", "options", "sentence"),
    [
        ({"none": set()}, {}, "'none' has no image"),
        ({"far": {1, 99}}, {}, r"1 of 2 images of the subset 'far' are not in the data set \(the first: 99\)"),
        ({"a": {1}}, {"tasks": ["keypoints"]}, "no task keypoints"),
        ({"a": {1}}, {"backend": "fastest"}, "no backend 'fastest'"),
    ],
)
def test_what_cannot_be_scored_is_named(run, subsets, options, sentence):
    folder, _, _ = run
    with pytest.raises(UserError, match=sentence):
        score_subsets(folder / "truth.json", folder / "run", subsets, benchmark="lvis", **options)


def test_predictions_of_other_images_and_empty_ones_and_test_sets_are_refused(tmp_path):
    content = scenes.ground_truth(0)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    truth = read_truth(str(tmp_path / "truth.json"))
    for results, sentence in (
        ([{"image_id": 77, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 1}], r"1 of 1 images .* \(the first: 77\)"),
        ([], "holds no predictions"),
    ):
        (tmp_path / "results.json").write_text(json.dumps(results))
        with pytest.raises(UserError, match=sentence):
            read_answers(tmp_path / "results.json", truth)
    del content["annotations"]
    (tmp_path / "test.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="no ground truth"):
        read_answers(tmp_path / "results.json", read_truth(str(tmp_path / "test.json")))


def test_boxes_alone_are_scored_where_masks_are_missing(tmp_path):
    content = scenes.ground_truth(0)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    results = [{key: one[key] for key in ("image_id", "category_id", "bbox", "score")} for one in scenes.detections(content, 1)]
    (tmp_path / "results.json").write_text(json.dumps(results))
    found = score_subsets(tmp_path / "truth.json", tmp_path / "results.json", {"a": {1, 2, 3}}, benchmark="coco")
    assert list(found["a"]) == ["bbox"]
    assert np.isfinite(found["a"]["bbox"]["AP"])
    with pytest.raises(UserError, match="no masks"):
        score_subsets(tmp_path / "truth.json", tmp_path / "results.json", {"a": {1}}, benchmark="coco", tasks=["segm"])
