"""Reading images, and annotations on their way through a transform."""

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image
from pycocotools import mask as coco_mask

ORIENTATION = 0x0112


def annotation(**more) -> dict:
    polygon = [4.0, 2.0, 14.0, 2.0, 14.0, 12.0, 4.0, 12.0]
    return {"bbox": [4.0, 2.0, 10.0, 10.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 3, "segmentation": [polygon], **more}


def square_runs() -> dict:
    bitmap = np.zeros((20, 30), np.uint8)
    bitmap[2:12, 4:14] = 1
    return coco_mask.encode(np.asfortranarray(bitmap))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_read_the_way_a_viewer_shows_it(tmp_path, orientation):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(utils.read_image(str(tmp_path / "turned.png"), format="L")[..., 0], upright)


def test_channels_come_in_the_order_asked_for(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(utils.read_image(str(tmp_path / "a.png"), format="RGB"), pixels)
    np.testing.assert_array_equal(utils.read_image(str(tmp_path / "a.png"), format="BGR"), pixels[..., ::-1])
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert utils.read_image(str(tmp_path / "grey.png"), format="RGB").shape == (5, 7, 3)


def test_a_record_that_states_another_size_is_refused_and_one_without_size_gets_it():
    image = np.zeros((5, 7, 3), np.uint8)
    with pytest.raises(utils.SizeMismatchError, match=r"a\.png"):
        utils.check_image_size({"file_name": "a.png", "height": 7, "width": 5}, image)
    record: dict = {}
    utils.check_image_size(record, image)
    assert record == {"height": 5, "width": 7}


def test_a_transformed_box_is_clipped_to_the_image():
    crop = T.TransformList([T.CropTransform(8, 0, 20, 8)])
    moved = utils.transform_instance_annotations(annotation(), crop, (8, 20))
    np.testing.assert_allclose(moved["bbox"], [0, 2, 6, 8])
    assert moved["bbox_mode"] == BoxMode.XYXY_ABS
    np.testing.assert_allclose(sorted(moved["segmentation"][0].reshape(-1, 2).tolist()), [[0, 2], [0, 8], [6, 2], [6, 8]])


def test_run_lengths_move_like_polygons():
    steps = T.TransformList([T.HFlipTransform(30), T.ResizeTransform(20, 30, 40, 60, Image.BILINEAR)])
    as_runs = utils.transform_instance_annotations(annotation(segmentation=square_runs()), steps, (40, 60))
    as_polygon = utils.transform_instance_annotations(annotation(), steps, (40, 60))
    bitmaps = utils.annotations_to_instances([as_runs, as_polygon], (40, 60), mask_format="bitmask").gt_masks
    assert isinstance(bitmaps, BitMasks)
    torch.testing.assert_close(bitmaps.tensor[0], bitmaps.tensor[1])
    assert bitmaps.tensor[0].sum() == 400


def test_instances_hold_boxes_classes_and_masks():
    moved = [utils.transform_instance_annotations(annotation(), T.NoOpTransform(), (20, 30)) for _ in range(2)]
    instances = utils.annotations_to_instances(moved, (20, 30))
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.tensor([[4.0, 2, 14, 12]] * 2))
    assert instances.gt_classes.tolist() == [3, 3]
    assert instances.gt_classes.dtype == torch.int64
    assert isinstance(instances.gt_masks, PolygonMasks)
    assert instances.image_size == (20, 30)
    empty = utils.annotations_to_instances([], (20, 30))
    assert len(empty) == 0
    assert empty.gt_boxes.tensor.shape == (0, 4)


def test_run_lengths_need_the_bitmask_format():
    moved = utils.transform_instance_annotations(annotation(segmentation=square_runs()), T.NoOpTransform(), (20, 30))
    with pytest.raises(ValueError, match="mask_format"):
        utils.annotations_to_instances([moved], (20, 30), mask_format="polygon")


def test_instances_without_area_or_mask_are_left_out():
    whole = annotation(bbox_mode=BoxMode.XYXY_ABS, bbox=[4.0, 2, 14, 12])
    flat = {**whole, "bbox": [4.0, 2, 4, 12]}
    unmasked = {**whole, "segmentation": []}
    instances = utils.annotations_to_instances([flat, whole, unmasked], (20, 30))
    kept, which = utils.filter_empty_instances(instances, return_mask=True)
    assert which.tolist() == [False, True, False]
    assert len(kept) == 1
    assert len(utils.filter_empty_instances(instances, by_mask=False)) == 2


def test_federated_weights_are_powers_of_the_image_counts_in_the_order_of_ids():
    counts = [{"id": 2, "image_count": 100}, {"id": 1, "image_count": 4}]
    MetadataCatalog.get("counted_test").class_image_count = counts
    try:
        torch.testing.assert_close(utils.get_fed_loss_cls_weights("counted_test", 0.5), torch.tensor([2.0, 10.0]))
        torch.testing.assert_close(utils.get_fed_loss_cls_weights(["counted_test"]), torch.tensor([4.0, 100.0]))
    finally:
        MetadataCatalog.remove("counted_test")
