"""Collecting what is to be drawn, and what each kind of bad file says."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image
from pycocotools import mask as coco_mask

from eva02_det.report.collect import Source, coco_files, detections, ground_truth, read_image, read_results, registered
from eva02_det.utils.errors import UserError

SIZE = (64, 48)


def source_of(dataset: Path) -> Source:
    return coco_files(dataset / "annotations.json", dataset / "images")


def test_ground_truth_has_corners_names_and_masks(dataset: Path):
    source = source_of(dataset)
    truth = ground_truth(source, source.records[0], SIZE)
    assert truth.boxes.tolist() == [[10, 10, 30, 30], [0, 0, 64, 48]]
    assert truth.names == ("cat", "<b>dog</b> (crowd)")
    assert truth.class_ids.tolist() == [0, 1]
    assert truth.scores is None
    expected = np.zeros((48, 64), dtype=bool)
    expected[10:30, 10:30] = True
    np.testing.assert_array_equal(truth.masks[0], expected)
    assert truth.masks[1].all()


def test_a_picture_without_objects_has_empty_ground_truth(dataset: Path):
    source = source_of(dataset)
    truth = ground_truth(source, {**source.records[0], "annotations": []}, SIZE)
    assert truth.boxes.shape == (0, 4)
    assert truth.masks is None


def test_detections_are_translated_filtered_and_sorted_by_score(dataset: Path, results: dict):
    found = detections(source_of(dataset), results[5], SIZE, score_threshold=0.5)
    assert found.names == ("<b>dog</b>", "cat")
    assert found.scores.tolist() == [0.9, 0.6]
    assert found.boxes.tolist() == [[30, 30, 39, 39], [11, 11, 31, 31]]
    assert found.masks.sum(axis=(1, 2)).tolist() == [0, 400]  # the first came without a mask


def test_a_detection_with_a_mask_alone_gets_the_box_of_the_mask(dataset: Path):
    mask = np.zeros((48, 64), dtype=np.uint8, order="F")
    mask[5:15, 20:50] = 1
    runs = coco_mask.encode(mask)
    result = {"image_id": 5, "category_id": 3, "segmentation": {**runs, "counts": runs["counts"].decode()}, "score": 1.0}
    found = detections(source_of(dataset), [result], SIZE)
    assert found.boxes.tolist() == [[20, 5, 50, 15]]
    np.testing.assert_array_equal(found.masks[0], mask.astype(bool))


def test_a_detection_with_a_polygon_alone_gets_the_box_around_it(dataset: Path):
    result = {"image_id": 5, "category_id": 3, "segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]], "score": 1.0}
    assert detections(source_of(dataset), [result], SIZE).boxes.tolist() == [[10, 10, 30, 30]]


def test_no_detection_above_the_threshold_is_not_an_error(dataset: Path, results: dict):
    assert detections(source_of(dataset), results[5], SIZE, score_threshold=0.95).boxes.shape == (0, 4)


def test_spread_takes_evenly_spaced_records_and_only_the_wanted_ones():
    source = Source("numbers", tuple({"image_id": index} for index in range(10)), (), {})
    assert [r["image_id"] for r in source.spread(5)] == [0, 2, 4, 6, 8]
    assert [r["image_id"] for r in source.spread(100)] == list(range(10))
    assert [r["image_id"] for r in source.spread(3, among=[9, 1, 4, 77])] == [1, 4, 9]
    assert source.spread(3, among=[77]) == []


def test_a_result_file_is_grouped_by_image(tmp_path: Path, results: dict):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results[9] + results[5]))
    assert read_results(path) == results


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "must hold a list"),
        ('[{"image_id": 1, "category_id": 1, "score": 1}]', "detection 0 of .*bbox"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}]', "detection 0 of .*score"),
        ("[5]", "detection 0 of"),
    ],
)
def test_a_bad_result_file_is_named(tmp_path: Path, content: str, sentence: str):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(UserError, match=sentence) as caught:
        read_results(path)
    assert str(path) in str(caught.value)


def test_an_unknown_category_or_a_mask_of_another_size_is_refused(dataset: Path):
    source, result = source_of(dataset), {"image_id": 5, "category_id": 99, "bbox": [0, 0, 1, 1], "score": 1.0}
    with pytest.raises(UserError, match="category 99"):
        detections(source, [result], SIZE)
    runs = coco_mask.encode(np.ones((10, 20), dtype=np.uint8, order="F"))
    with pytest.raises(UserError, match=r"20 x 10 px .* 64 x 48 px"):
        detections(source, [{**result, "category_id": 3, "segmentation": runs}], SIZE)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda d: (d / "annotations.json").unlink(), "annotations.json"),
        (lambda d: (d / "annotations.json").write_text("{"), "not valid JSON"),
        (lambda d: (d / "annotations.json").write_text('{"images": [], "categories": [], "annotations": []}'), "not usable"),
        (lambda d: (d / "images").rename(d / "elsewhere"), "images"),
    ],
    ids=["absent", "broken", "empty", "no pictures"],
)
def test_a_bad_data_set_is_refused_in_one_sentence(dataset: Path, spoil, sentence: str):
    spoil(dataset)
    with pytest.raises(UserError, match=sentence):
        source_of(dataset)


def test_a_registered_data_set_brings_its_records_and_class_names(dataset: Path):
    name = "registered_for_drawing"
    register_coco_instances(name, {}, str(dataset / "annotations.json"), str(dataset / "images"))
    try:
        source = registered(name)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert (source.name, len(source.records), source.class_names) == (name, 2, ("cat", "<b>dog</b>"))
    assert source.class_of_category == {3: 0, 7: 1}
    assert source.has_ground_truth()


def test_a_registered_data_set_whose_file_is_missing_names_the_file(tmp_path: Path):
    register_coco_instances("registered_in_vain", {}, str(tmp_path / "absent.json"), str(tmp_path))
    try:
        with pytest.raises(UserError, match=r"absent\.json"):
            registered("registered_in_vain")
    finally:
        DatasetCatalog.remove("registered_in_vain")


def test_an_unregistered_name_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'no_such_set' is not known"):
        registered("no_such_set")


def test_a_missing_or_broken_picture_is_named(dataset: Path):
    record = source_of(dataset).records[0]
    path = Path(record["file_name"])
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"one.png cannot be decoded"):
        read_image(record)
    path.unlink()
    with pytest.raises(UserError, match=r"one.png does not exist"):
        read_image(record)


def test_a_picture_is_turned_upright_and_made_rgb(tmp_path: Path):
    picture = Image.new("L", (40, 20))
    exif = picture.getexif()
    exif[0x0112] = 6  # orientation: rotate by a quarter turn
    picture.save(tmp_path / "turned.jpg", exif=exif)
    upright = read_image({"file_name": str(tmp_path / "turned.jpg")})
    assert (upright.mode, upright.size) == ("RGB", (20, 40))
