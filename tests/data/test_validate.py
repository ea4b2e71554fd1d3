"""Records that would spoil a training are refused or repaired."""

import logging
import math

import pytest
from detectron2.structures import BoxMode

from eva02_det.data.registration import load_dataset
from eva02_det.data.validate import drop_empty_boxes, require_images
from eva02_det.utils.errors import UserError
from tests.data import tiny_coco


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["bbox", "segmentation"])
def test_a_coordinate_that_is_no_number_names_file_annotation_and_image(root, where, number):
    content = tiny_coco.content()
    bad = content["annotations"][3]
    (bad["bbox"] if where == "bbox" else bad["segmentation"][0])[2] = number
    file = tiny_coco.write(root, "train", content)
    with pytest.raises(UserError) as raised:
        load_dataset("tiny_train")
    text = str(raised.value)
    assert str(file) in text
    assert f"annotation {bad['id']}" in text
    assert "2.jpg" in text
    assert "\n" not in text


def test_boxes_that_show_nothing_are_dropped_counted_and_warned_of_once(root, caplog):
    content = tiny_coco.content()
    useless = [[70, 5, 10, 10], [-20, 5, 20, 10], [5, 48, 10, 10], [5, 5, 0, 10], [5, 5, 10, -3]]
    for number, box in enumerate(useless, 100):
        content["annotations"].append(tiny_coco.square(number, 1, 3, 1, 1, 1) | {"bbox": box})
    tiny_coco.write(root, "train", content)
    with caplog.at_level(logging.WARNING, logger="eva02_det"):
        records = load_dataset("tiny_train")
    assert [len(record["annotations"]) for record in records] == [2, 2, 2]
    warnings = [line.getMessage() for line in caplog.records if line.name.startswith("eva02_det")]
    assert len(warnings) == 1
    assert "5 of 11" in warnings[0]
    assert "1.jpg" in warnings[0]


def test_boxes_that_reach_over_the_edge_stay():
    boxes = [[-5.0, -5, 6, 6], [60, 40, 100, 100], [0, 0, 64, 48]]
    annotations = [{"bbox": box, "bbox_mode": BoxMode.XYWH_ABS} for box in boxes]
    record = {"file_name": "a.jpg", "height": 48, "width": 64, "annotations": annotations}
    assert drop_empty_boxes([record]) == 0
    assert len(record["annotations"]) == 3


def test_boxes_may_be_given_by_their_corners():
    annotations = [
        {"bbox": [10.0, 10, 20, 20], "bbox_mode": BoxMode.XYXY_ABS},
        {"bbox": [20.0, 10, 10, 20], "bbox_mode": BoxMode.XYXY_ABS},
        {"bbox": [20.0, 10, 10, 20], "bbox_mode": BoxMode.XYWH_ABS},
    ]
    record = {"file_name": "a.jpg", "height": 48, "width": 64, "annotations": list(annotations)}
    assert drop_empty_boxes([record]) == 1
    assert record["annotations"] == [annotations[0], annotations[2]]


def test_an_image_that_loses_its_only_box_is_left_out_of_training(root):
    content = tiny_coco.content()
    content["annotations"] = content["annotations"][:3]  # two of image 1, one of image 2
    content["annotations"][2]["bbox"] = [500, 500, 10, 10]
    tiny_coco.write(root, "train", content)
    assert [record["image_id"] for record in load_dataset("tiny_train")] == [1]
    assert [record["image_id"] for record in load_dataset("tiny_train", filter_empty=False)] == [1, 2, 3]


def test_images_are_looked_for_in_every_folder_and_not_on_the_network(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").touch()
    require_images([str(tmp_path / "a" / "x.jpg"), "http://example.org/y.jpg"])
    with pytest.raises(UserError, match="b/x"):
        require_images([str(tmp_path / "a" / "x.jpg"), str(tmp_path / "b" / "x.jpg")])
