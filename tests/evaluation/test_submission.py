"""Submissions hold what a server is to score: the right detections with the right scores, packed under the right name."""

import json
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog

from eva02_det.evaluation import evaluator
from eva02_det.evaluation.coco import CocoEvaluator
from eva02_det.evaluation.halves import half
from eva02_det.evaluation.lvis import LvisEvaluator
from eva02_det.evaluation.score import score_folder
from eva02_det.evaluation.shards import Shards
from eva02_det.evaluation.submission import Written, file_stem, write_submission
from eva02_det.utils.errors import UserError
from tests.evaluation import scenes
from tests.evaluation.feeding import NAME, feed, register
from tests.evaluation.reference import coco_numbers, lvis_numbers
from tests.evaluation.submitted import CATEGORY_IDS, IMAGE_IDS, TEST_DEV, found, image_list, leave


def content(one: Written) -> list[dict]:
    return json.loads(one.json_file.read_text())


def by_image(entries: list[dict]) -> dict[int, list[dict]]:
    return {image: [one for one in entries if one["image_id"] == image] for image in {one["image_id"] for one in entries}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of two ranks, one of which repeats an image as samplers do."""
    parts = [[found((9, 12), 30), found((400,), 30)], [found((71,), 30), found((9, 88), 30)]]
    return leave(tmp_path / "inference", parts, image_list(tmp_path))


def test_boxes_carry_the_plain_scores_and_masks_the_calibrated_ones(folder: Path, tmp_path: Path):
    boxes, masks = write_submission(folder, tmp_path / "out", "eva02", box_decimals=6)
    assert (boxes.task, masks.task) == ("bbox", "segm")
    part = found((9, 12), 30)
    own = {(round(float(part.scores[row]), 2), CATEGORY_IDS[part.classes[row]]) for row in range(30)}
    calibrated = {float(str(part.mask_scores[row])) for row in range(30)}
    assert {(one["score"], one["category_id"]) for one in by_image(content(boxes))[9]} == own
    assert {one["score"] for one in by_image(content(masks))[9]} == calibrated
    assert {frozenset(one) for one in content(boxes)} == {frozenset({"image_id", "category_id", "bbox", "score"})}
    assert {frozenset(one) for one in content(masks)} == {frozenset({"image_id", "category_id", "segmentation", "score"})}
    assert (boxes.images, boxes.detections, boxes.left_out) == (5, 150, 0)


@pytest.mark.parametrize(("task", "key"), [("bbox", "scores"), ("segm", "mask_scores")])
def test_the_best_of_each_image_remain_in_order_and_the_rest_is_counted(folder: Path, tmp_path: Path, task: str, key: str):
    (one,) = write_submission(folder, tmp_path / "out", "eva02", tasks=[task], per_image=7)
    parts = [found(images, 30) for images in ((9, 12), (400,), (71,), (9, 88))]
    for image, entries in by_image(content(one)).items():
        alone = next(part for part in parts if image in part.image_ids)
        scores = getattr(alone, key)[alone.image == alone.image_ids.tolist().index(image)]
        expected = sorted((float(str(score)) for score in scores), reverse=True)[:7]
        assert [entry["score"] for entry in entries] == expected
    assert (one.detections, one.left_out) == (35, 115)


def test_servers_find_the_file_under_their_name_alone_in_the_zip(folder: Path, tmp_path: Path):
    for one in write_submission(folder, tmp_path / "out", "eva02"):
        assert one.json_file == tmp_path / "out" / one.task / "detections_test-dev2017_eva02_results.json"
        assert one.zip_file == one.json_file.with_suffix(".zip")
        with zipfile.ZipFile(one.zip_file) as archive:
            assert archive.namelist() == [one.json_file.name]
            assert archive.read(one.json_file.name) == one.json_file.read_bytes()
            assert archive.testzip() is None


def test_the_same_predictions_give_the_same_zip_byte_by_byte(folder: Path, tmp_path: Path):
    first, second = (write_submission(folder, tmp_path / name, "eva02") for name in ("one", "two"))
    assert [one.zip_file.read_bytes() for one in first] == [one.zip_file.read_bytes() for one in second]


@pytest.mark.parametrize(
    ("benchmark", "dataset", "name"),
    [
        ("coco", "coco_2017_test-dev", "detections_test-dev2017_a-1_results"),
        ("coco", "coco_2017_val", "detections_val2017_a-1_results"),
        ("coco", "my_birds_val", "detections_my_birds_val_a-1_results"),
        ("lvis", "lvis_v1_val", "lvis_v1_val_a-1_results"),
    ],
)
def test_files_are_named_for_the_test_set_and_the_algorithm(benchmark: str, dataset: str, name: str):
    assert file_stem(benchmark, dataset, "a-1") == name


def test_lvis_takes_300_of_an_image_over_all_classes(tmp_path: Path):
    folder = leave(tmp_path / "in", [[found((9,), 350)]], image_list(tmp_path), "lvis_v1_val", "lvis")
    boxes, masks = write_submission(folder, tmp_path / "out", "eva02")
    assert (boxes.detections, boxes.left_out, masks.detections) == (300, 50, 300)


def test_a_model_without_calibration_or_without_masks_is_submitted_as_it_is(tmp_path: Path):
    annotations = image_list(tmp_path)
    plain = leave(tmp_path / "plain", [[found((9,), 5, calibrated=False)]], annotations)
    boxes, masks = write_submission(plain, tmp_path / "out", "eva02")
    assert [one["score"] for one in content(boxes)] == [one["score"] for one in content(masks)]
    assert "scores of the boxes" in masks.sentence()
    bare = leave(tmp_path / "bare", [[found((9,), 5, masks=False)]], annotations)
    assert [one.task for one in write_submission(bare, tmp_path / "out2", "eva02")] == ["bbox"]
    with pytest.raises(UserError, match="have no masks; ask for the task bbox alone"):
        write_submission(bare, tmp_path / "out2", "eva02", tasks=["segm"])


def test_only_the_images_asked_for_are_submitted(folder: Path, tmp_path: Path):
    wanted = half(IMAGE_IDS, "b")
    boxes, _ = write_submission(folder, tmp_path / "out", "eva02", image_ids=wanted)
    assert sorted(by_image(content(boxes))) == wanted


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("benchmark", ["coco", "lvis"])
def test_the_benchmarks_own_program_gives_the_submitted_file_the_evaluators_numbers(tmp_path: Path, benchmark: str, task: str):
    federated = benchmark == "lvis"
    truth = scenes.federated_truth(11) if federated else scenes.ground_truth(11)
    register(tmp_path, truth)
    written = (LvisEvaluator if federated else CocoEvaluator)(NAME, output_dir=str(tmp_path / "run"))
    written.deferred = True
    feed(written, scenes.detections(truth, 12)).evaluate()
    MetadataCatalog.remove(NAME)
    ours = score_folder(tmp_path / "run")[task]
    (one,) = write_submission(tmp_path / "run", tmp_path / "out", "eva02", tasks=[task], per_image=10_000, box_decimals=15)
    expected = lvis_numbers(tmp_path, truth, content(one), task) if federated else coco_numbers(truth, content(one), task)
    names = [name for name in expected if isinstance(name, str)]
    assert {"AP", "AP50", "APs"} <= set(names)
    np.testing.assert_allclose([ours[name] for name in names], [expected[name] for name in names], atol=1e-9)


def test_no_more_than_a_part_is_in_memory(tmp_path: Path):
    def peak(parts: int) -> int:
        folder = leave(tmp_path / f"{parts}", [[found((image,), 4000) for image in range(parts)]], annotations)
        tracemalloc.start()
        try:
            (one, _) = write_submission(folder, tmp_path / f"out{parts}", "eva02")
            assert one.detections == 100 * parts
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    annotations = image_list(tmp_path, tuple(range(12)))
    assert peak(12) < 1.3 * peak(2)


def test_a_rank_writes_before_many_detections_wait_in_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluator, "DETECTIONS_PER_PART", 60)
    truth = scenes.ground_truth(11)
    register(tmp_path, truth)
    crowded = CocoEvaluator(NAME, output_dir=str(tmp_path / "run"))
    crowded.deferred = True
    results = scenes.detections(truth, 12)
    feed(crowded, results).evaluate()
    MetadataCatalog.remove(NAME)
    parts = list(Shards(tmp_path / "run", 1))
    most = max(sum(one["image_id"] == image for one in results) for image in range(1, 7))
    assert len(parts) > 1
    assert all(len(part) < 60 + most for part in parts)


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", ".hidden", "ä"])
def test_a_name_that_is_no_part_of_a_file_name_is_refused(folder: Path, tmp_path: Path, name: str):
    with pytest.raises(UserError, match="give letters, digits"):
        write_submission(folder, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_a_cap_of_nothing_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match="leave nothing to submit"):
        write_submission(folder, tmp_path / "out", "eva02", per_image=0)


def test_scores_that_are_no_numbers_are_refused_before_anything_is_in_place(tmp_path: Path):
    part = found((9,), 5)
    part.scores[2] = np.nan
    folder = leave(tmp_path / "in", [[part]], image_list(tmp_path))
    with pytest.raises(UserError, match="1 numbers of the scores are not finite"):
        write_submission(folder, tmp_path / "out", "eva02")
    assert not list((tmp_path / "out").rglob("*.*"))


def test_the_images_of_test_dev_get_the_name_of_test_dev():
    assert file_stem("coco", TEST_DEV, "x") == "detections_test-dev2017_x_results"
