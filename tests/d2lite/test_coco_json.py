"""COCO annotation files as records."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask

NAME = "coco_json_test"
POLYGON = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]


@pytest.fixture
def content() -> dict:
    def box(number: int, image: int, category: int, **more) -> dict:
        return {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": [1, 1, 8, 8],
            "iscrowd": 0,
            "area": 32,
            "segmentation": [POLYGON],
            **more,
        }

    crowd = {"size": [10, 12], "counts": [10, 20, 90]}
    return {
        "images": [{"id": image, "file_name": f"{image}.png", "height": 10, "width": 12} for image in (8, 3, 5)],
        "categories": [{"id": 17, "name": "cat"}, {"id": 4, "name": "dog"}],
        "annotations": [
            box(1, 8, 17),
            box(2, 3, 4, segmentation=[[1.0, 2.0, 3.0, 4.0], POLYGON]),
            box(3, 3, 17, iscrowd=1, segmentation=crowd),
            box(4, 5, 17, iscrowd=1, segmentation=crowd),
        ],
    }


@pytest.fixture
def write(tmp_path):
    def to_file(content: dict) -> str:
        (tmp_path / "annotations.json").write_text(json.dumps(content))
        return str(tmp_path / "annotations.json")

    yield to_file
    for table in (DatasetCatalog, MetadataCatalog):
        if NAME in table:
            table.remove(NAME)


def test_records_come_by_image_id_with_contiguous_classes(content, write):
    records = load_coco_json(write(content), "pictures", NAME)
    assert [record["image_id"] for record in records] == [3, 5, 8]
    assert records[0]["file_name"] == "pictures/3.png"
    assert (records[0]["height"], records[0]["width"]) == (10, 12)
    assert [annotation["category_id"] for annotation in records[0]["annotations"]] == [0, 1]
    assert records[2]["annotations"][0]["bbox_mode"] == BoxMode.XYWH_ABS
    metadata = MetadataCatalog.get(NAME)
    assert metadata.thing_classes == ["dog", "cat"]
    assert metadata.thing_dataset_id_to_contiguous_id == {4: 0, 17: 1}


def test_without_a_name_category_ids_stay(content, write):
    records = load_coco_json(write(content), "", extra_annotation_keys=["area"])
    assert [annotation["category_id"] for annotation in records[0]["annotations"]] == [4, 17]
    assert records[0]["annotations"][0]["area"] == 32


def test_polygons_of_less_than_three_corners_are_dropped(content, write):
    content["annotations"][0]["segmentation"] = [[1.0, 2.0, 3.0, 4.0]]
    records = load_coco_json(write(content), "", NAME)
    assert records[0]["annotations"][0]["segmentation"] == [POLYGON]
    assert records[2]["annotations"] == []


def test_plain_run_lengths_become_compressed_ones(content, write):
    runs = load_coco_json(write(content), "", NAME)[0]["annotations"][1]["segmentation"]
    assert isinstance(runs["counts"], (bytes, str))
    assert coco_mask.decode(runs).sum() == 20


def test_shared_annotation_ids_are_refused(content, write):
    content["annotations"][1]["id"] = 1
    with pytest.raises(AssertionError):
        load_coco_json(write(content), "", NAME)


def test_a_test_set_has_images_and_no_annotations(content, write):
    del content["annotations"]
    records = load_coco_json(write(content), "", NAME)
    assert len(records) == 3
    assert not any(record.get("annotations") for record in records)


def test_registering_notes_the_files_and_reads_them_later(content, write):
    register_coco_instances(NAME, {"license": "none"}, write(content), "pictures")
    metadata = MetadataCatalog.get(NAME)
    assert metadata.evaluator_type == "coco"
    assert metadata.image_root == "pictures"
    assert metadata.license == "none"
    assert metadata.json_file.endswith("annotations.json")
    assert metadata.get("thing_classes") is None
    assert len(DatasetCatalog.get(NAME)) == 3


def test_training_leaves_out_images_with_nothing_but_crowds(content, write):
    register_coco_instances(NAME, {}, write(content), "pictures")
    assert [record["image_id"] for record in get_detection_dataset_dicts(NAME)] == [3, 8]
    assert [record["image_id"] for record in get_detection_dataset_dicts([NAME], filter_empty=False)] == [3, 5, 8]
    assert len(get_detection_dataset_dicts([NAME, NAME])) == 4
