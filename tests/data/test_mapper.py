"""An image that cannot be used is an error of one sentence, in the main process and from a worker."""

import numpy as np
import pytest
from detectron2.data import build_detection_test_loader
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image
from pycocotools import mask as coco_mask

from eva02_det.data.lsj import test_augmentations as resize_to
from eva02_det.data.mapper import CheckedMapper
from eva02_det.utils.errors import UserError


@pytest.fixture
def jpeg(tmp_path) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.jpg", quality=90)
    return (tmp_path / "whole.jpg").read_bytes()


def record(path, **more) -> dict:
    return {"file_name": str(path), "image_id": 1, "height": 48, "width": 64, **more}


def mapper() -> CheckedMapper:
    return CheckedMapper(is_train=False, augmentations=resize_to(32), image_format="RGB")


def test_a_whole_image_passes(tmp_path, jpeg):
    assert mapper()(record(tmp_path / "whole.jpg"))["image"].shape == (3, 24, 32)


@pytest.mark.parametrize("kept", [0.0, 0.05, 0.3, 0.7, 0.95, 0.999])
def test_a_jpeg_that_ends_early_is_refused_wherever_it_ends(tmp_path, jpeg, kept):
    (tmp_path / "short.jpg").write_bytes(jpeg[: int(kept * len(jpeg))])
    with pytest.raises(UserError, match=r"short\.jpg cannot be decoded.*download it again"):
        mapper()(record(tmp_path / "short.jpg"))


@pytest.mark.parametrize("content", [b"<html>404 not found</html>", b"\x89PNG\r\n\x1a\n" + bytes(40), bytes(1000)])
def test_a_file_that_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "page.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"page\.jpg cannot be decoded"):
        mapper()(record(tmp_path / "page.jpg"))


def test_run_lengths_and_polygons_may_stand_side_by_side_and_crowds_are_left_out(tmp_path, jpeg):
    outline = [[8.0, 8.0, 40.0, 8.0, 40.0, 30.0, 8.0, 30.0]]
    bitmap = np.zeros((48, 64), dtype=np.uint8, order="F")
    bitmap[8:30, 8:40] = 1
    common = {"bbox": [8, 8, 32, 22], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    polygon, runs = {**common, "segmentation": outline}, {**common, "segmentation": coco_mask.encode(bitmap)}
    crowd = {**runs, "iscrowd": 1}
    train = CheckedMapper(is_train=True, augmentations=[], image_format="RGB", use_instance_mask=True)
    alone = train(record(tmp_path / "whole.jpg", annotations=[polygon, crowd]))["instances"]
    mixed = train(record(tmp_path / "whole.jpg", annotations=[polygon, runs]))["instances"]
    assert isinstance(alone.gt_masks, PolygonMasks)
    assert len(alone) == 1
    assert isinstance(mixed.gt_masks, BitMasks)
    np.testing.assert_array_equal(mixed.gt_masks.tensor.numpy(), np.stack([bitmap, bitmap]).astype(bool))


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.jpg does not exist"):
        mapper()(record(tmp_path / "gone.jpg"))


def test_an_image_of_another_size_than_stated_is_one_sentence(tmp_path, jpeg):
    with pytest.raises(UserError) as raised:
        mapper()(record(tmp_path / "whole.jpg", height=64, width=48))
    assert "whole.jpg" in str(raised.value)
    assert "48 x 64" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_sentence_survives_a_worker(tmp_path, jpeg):
    (tmp_path / "short.jpg").write_bytes(jpeg[:500])
    loader = build_detection_test_loader([record(tmp_path / "short.jpg")], mapper=mapper(), num_workers=1)
    with pytest.raises(UserError) as raised:
        list(loader)
    assert str(raised.value).startswith("image ")
    assert "short.jpg" in str(raised.value)
    assert "\n" not in str(raised.value)
