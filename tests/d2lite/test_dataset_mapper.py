"""What a detector is given for a record."""

import copy

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image


@pytest.fixture
def record(tmp_path) -> dict:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    polygon = [4.0, 2.0, 14.0, 2.0, 4.0, 12.0]
    single = {"bbox": [3.0, 1.0, 15.0, 15.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, "segmentation": [polygon]}
    crowd = {**single, "iscrowd": 1, "category_id": 2}
    return {
        "file_name": str(tmp_path / "image.png"),
        "height": 20,
        "width": 30,
        "image_id": 5,
        "annotations": [single | {"iscrowd": 0}, crowd],
    }


def test_training_gives_image_and_instances_without_crowds_and_leaves_the_record_alone(record):
    before = copy.deepcopy(record)
    mapper = DatasetMapper(True, augmentations=[T.RandomFlip(prob=1.0)], image_format="RGB", use_instance_mask=True)
    result = mapper(record)
    assert record == before
    expected = np.asarray(Image.open(record["file_name"]))[:, ::-1]
    torch.testing.assert_close(result["image"], torch.from_numpy(expected.copy()).permute(2, 0, 1))
    assert result["instances"].gt_classes.tolist() == [1]
    assert result["image_id"] == 5
    torch.testing.assert_close(result["instances"].gt_boxes.tensor, torch.tensor([[12.0, 1, 27, 16]]))
    assert "annotations" not in result


def test_recomputed_boxes_fit_the_masks(record):
    mapper = DatasetMapper(True, augmentations=[], image_format="RGB", use_instance_mask=True, recompute_boxes=True)
    torch.testing.assert_close(mapper(record)["instances"].gt_boxes.tensor, torch.tensor([[4.0, 2, 14, 12]]))


def test_boxes_alone_need_no_masks(record):
    instances = DatasetMapper(True, augmentations=[], image_format="RGB")(record)["instances"]
    assert not instances.has("gt_masks")
    assert len(instances) == 1


def test_an_object_outside_the_crop_is_gone(record):
    crop = T.CropTransform(20, 0, 10, 20)
    instances = DatasetMapper(True, augmentations=[crop], image_format="RGB", use_instance_mask=True)(record)["instances"]
    assert len(instances) == 0
    assert instances.image_size == (20, 10)


def test_inference_gives_the_image_at_its_new_size_and_no_annotations(record):
    result = DatasetMapper(False, augmentations=[T.ResizeShortestEdge(40, 40)], image_format="RGB")(record)
    assert result["image"].shape == (3, 27, 40)
    assert (result["height"], result["width"]) == (20, 30)
    assert "annotations" not in result
    assert "instances" not in result


def test_recomputing_boxes_without_masks_is_refused():
    with pytest.raises(AssertionError):
        DatasetMapper(True, augmentations=[], image_format="RGB", recompute_boxes=True)
