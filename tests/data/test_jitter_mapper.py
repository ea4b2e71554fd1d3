"""The fast mapper against the slow one: the same decisions, objects, boxes and masks."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image
from pycocotools import mask as coco_mask

from eva02_det.data.jitter_mapper import JitterMapper
from eva02_det.data.loaders import build_train_loader
from eva02_det.data.lsj import train_augmentations
from eva02_det.data.mapper import CheckedMapper
from eva02_det.data.registration import load_dataset
from eva02_det.utils.errors import UserError
from tests.data import tiny_coco

REAL = Path(os.environ.get("DETECTRON2_DATASETS") or Path(__file__).resolve().parents[3] / "shared" / "datasets")
needs_images = pytest.mark.skipif(not (REAL / "coco/val2017").is_dir(), reason=f"no images at {REAL}; set DETECTRON2_DATASETS")


def official(pixels: int) -> list[T.Augmentation]:
    return [T.ResizeScale(0.1, 2.0, pixels, pixels), T.FixedSizeCrop((pixels, pixels), pad=True), T.RandomFlip()]


def both(augmentations: list[T.Augmentation], **options) -> tuple[CheckedMapper, JitterMapper]:
    options = {"image_format": "RGB", "use_instance_mask": True, "recompute_boxes": True, **options}
    slow, fast = (kind(True, augmentations=augmentations, **options) for kind in (CheckedMapper, JitterMapper))
    assert fast.is_fast
    return slow, fast


def assert_same(slow: CheckedMapper, fast: JitterMapper, record: dict, seed: int) -> dict:
    """Both map the record after the same seed; what they give and the state they leave must agree. -> the fast one's."""
    np.random.seed(seed)
    expected, after = slow(record), np.random.random()
    np.random.seed(seed)
    found = fast(record)
    assert np.random.random() == after, "not the same random numbers"
    assert set(found) == set(expected)
    assert found["image"].shape == expected["image"].shape
    assert ((found["image"].int() - expected["image"].int()).abs() > 1).float().mean() <= 1e-5
    mine, theirs = found["instances"], expected["instances"]
    assert mine.image_size == theirs.image_size
    np.testing.assert_array_equal(mine.gt_classes, theirs.gt_classes)
    np.testing.assert_allclose(mine.gt_boxes.tensor, theirs.gt_boxes.tensor, rtol=0, atol=1e-3)
    assert mine.has("gt_masks") == theirs.has("gt_masks")
    if not mine.has("gt_masks"):
        return found
    assert type(mine.gt_masks) is type(theirs.gt_masks)
    if isinstance(mine.gt_masks, PolygonMasks):
        np.testing.assert_allclose(mine.gt_masks.area(), theirs.gt_masks.area(), atol=1e-3)
        edges = [[np.sort(np.concatenate(one)[0::2]) for one in masks.polygons] for masks in (mine.gt_masks, theirs.gt_masks)]
        for here, there in zip(*edges, strict=True):
            np.testing.assert_allclose([here[0], here[-1]], [there[0], there[-1]], atol=1e-3)
    else:
        # COCO's rasteriser may set a corner's pixel or not, by the vertex that a polygon begins with
        assert ((mine.gt_masks.tensor != theirs.gt_masks.tensor).sum((1, 2)) <= 1).all()
    return found


@needs_images
@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize("augmentations", [train_augmentations, official])
@pytest.mark.parametrize("recompute_boxes", [True, False])
def test_real_images_come_out_the_same(root, monkeypatch, augmentations, mask_format, recompute_boxes):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(REAL))
    slow, fast = both(augmentations(160), instance_mask_format=mask_format, recompute_boxes=recompute_boxes)
    objects = 0
    for seed, record in enumerate(load_dataset("coco_2017_val")[::4]):
        objects += len(assert_same(slow, fast, record, seed)["instances"])
    assert objects > 30


@needs_images
def test_boxes_alone_come_out_the_same(root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(REAL))
    slow, fast = both(train_augmentations(160), use_instance_mask=False, recompute_boxes=False)
    for seed, record in enumerate(load_dataset("objects365_val")):
        assert not assert_same(slow, fast, record, seed)["instances"].has("gt_masks")


@needs_images
@pytest.mark.parametrize("augmentations", [train_augmentations, official])
@pytest.mark.parametrize("recompute_boxes", [True, False])
def test_run_lengths_come_out_the_same(root, monkeypatch, augmentations, recompute_boxes):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(REAL))
    slow, fast = both(augmentations(120), instance_mask_format="bitmask", recompute_boxes=recompute_boxes)
    for seed, record in enumerate(load_dataset("coco_2017_train")[::8]):
        for annotation in record["annotations"][::2]:
            if isinstance(annotation["segmentation"], list):
                parts = coco_mask.frPyObjects(annotation["segmentation"], record["height"], record["width"])
                annotation["segmentation"] = coco_mask.merge(parts)
        assert_same(slow, fast, record, seed)


@pytest.fixture
def record(root) -> dict:
    tiny_coco.write(root, "train", tiny_coco.content())
    return load_dataset("tiny_train")[0]


def test_polygons_and_run_lengths_side_by_side_become_bitmaps(record):
    slow, fast = both(train_augmentations(64))
    bitmap = np.zeros((tiny_coco.HEIGHT, tiny_coco.WIDTH), dtype=np.uint8, order="F")
    bitmap[5:30, 3:40] = 1
    record["annotations"][1]["segmentation"] = coco_mask.encode(bitmap)
    kinds = {type(assert_same(slow, fast, record, seed)["instances"].gt_masks) for seed in range(8)}
    assert kinds == {BitMasks}


def test_crowds_are_left_out_and_an_image_without_objects_is_none_the_less_mapped(record):
    slow, fast = both(train_augmentations(64))
    record["annotations"][0]["iscrowd"] = 1
    for seed in range(4):
        assert_same(slow, fast, record, seed)
    record["annotations"] = []
    assert len(fast(record)["instances"]) == 0


def test_the_record_that_comes_in_is_left_alone(record):
    before = json.dumps(record)
    both(train_augmentations(64))[1](record)
    assert json.dumps(record) == before


def test_bgr_is_rgb_backwards(record):
    slow, fast = both(train_augmentations(64), image_format="BGR")
    assert_same(slow, fast, record, 3)


def test_other_augmentations_take_the_slow_way(record, caplog):
    class Darker(T.Augmentation):
        """Looks at the pixels, so that they must be there."""

        def get_transform(self, image: np.ndarray) -> T.Transform:
            return T.HFlipTransform(image.shape[1]) if image.mean() < 255 else T.NoOpTransform()

    with caplog.at_level("INFO", logger="eva02_det"):
        mapper = JitterMapper(True, augmentations=[Darker()], image_format="RGB")
    assert not mapper.is_fast
    assert "step by step" in caplog.text
    expected = CheckedMapper(True, augmentations=[Darker()], image_format="RGB")(record)
    np.testing.assert_array_equal(mapper(record)["image"], expected["image"])


def test_an_image_is_opened_once(record):
    opened = []
    sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)
    for mapper in both(train_augmentations(64)):
        opened.clear()
        mapper(record)
        assert opened.count(record["file_name"]) == 1


def test_a_strip_that_shrinks_to_nothing_is_one_pixel_wide(tmp_path):
    Image.fromarray(np.zeros((2, 600, 3), np.uint8)).save(tmp_path / "strip.png")
    box = {"bbox": [0, 0, 600, 2], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    mapper = JitterMapper(True, augmentations=train_augmentations(64, scale=(0.1, 0.1001)), image_format="RGB")
    found = mapper({"file_name": str(tmp_path / "strip.png"), "annotations": [box]})
    assert found["image"].shape == (3, 1, 6)
    assert len(found["instances"]) == 1


def test_what_is_wrong_with_an_image_is_said_as_by_the_slow_mapper(record):
    path = Path(record["file_name"])
    whole = path.read_bytes()
    for spoil, complaint in (
        (path.unlink, "does not exist"),
        (lambda: path.write_bytes(whole[: len(whole) // 2]), "cannot be decoded"),
        (lambda: Image.new("RGB", (9, 9)).save(path), "has not the size"),
    ):
        spoil()
        for mapper in both(train_augmentations(64)):
            with pytest.raises(UserError, match=complaint) as raised:
                mapper(record)
            assert str(path) in str(raised.value)


def test_pixels_of_sixteen_bits_are_refused_instead_of_becoming_white(tmp_path):
    Image.new("I;16", (64, 48), 700).save(tmp_path / "deep.png")
    for mapper in both(train_augmentations(64)):
        with pytest.raises(UserError, match=r"deep\.png has more than 8 bits"):
            mapper({"file_name": str(tmp_path / "deep.png"), "annotations": []})


def test_an_object_without_a_mask_among_others_with_one_is_named(record):
    del record["annotations"][1]["segmentation"]
    with pytest.raises(UserError, match="1 of 2 objects") as raised:
        both(train_augmentations(64))[1](record)
    assert record["file_name"] in str(raised.value)


def test_workers_give_the_batches_of_the_main_process_again(root):
    tiny_coco.write(root, "train", tiny_coco.content(images=6))
    records = load_dataset("tiny_train")
    mapper = both(train_augmentations(64))[1]

    def images(workers: int) -> list[int]:
        stream = iter(build_train_loader(records, mapper=mapper, total_batch_size=2, num_workers=workers, seed=3))
        return [item["image_id"] for _ in range(5) for item in next(stream)]

    assert images(0) == images(2)
