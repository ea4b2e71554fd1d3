"""The loaders of a config: what it builds, how it is changed and saved."""

from itertools import islice
from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, PolygonMasks
from omegaconf import DictConfig, OmegaConf

from configs.common.data import lsj_dataloader
from tests.data import tiny_coco


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for split in ("train", "val"):
        tiny_coco.write(tmp_path, split, tiny_coco.content())
    yield tmp_path
    for table in (DatasetCatalog, MetadataCatalog):
        for name in ("tiny_train", "tiny_val"):
            if name in table:
                table.remove(name)


def config(**options) -> DictConfig:
    tree = OmegaConf.create(flags={"allow_objects": True})
    tree.dataloader = lsj_dataloader("tiny", **{"pixels": 64, "batch_size": 2, "workers": 0, "test_workers": 0, **options})
    return tree


def first_batch(tree: DictConfig) -> list[dict]:
    return next(iter(instantiate(tree.dataloader.train)))


def test_training_batches_hold_images_boxes_and_polygons(root):
    for batch in islice(iter(instantiate(config().dataloader.train)), 3):
        assert len(batch) == 2
        for item in batch:
            assert max(item["image"].shape) <= 64
            assert isinstance(item["instances"].gt_masks, PolygonMasks) or len(item["instances"]) == 0


def test_masks_can_be_bitmaps_or_absent(root):
    everything = {"scale": (1.0, 1.0)}
    bitmaps = first_batch(config(mask_format="bitmask", **everything))
    assert isinstance(bitmaps[0]["instances"].gt_masks, BitMasks)
    assert not first_batch(config(masks=False, **everything))[0]["instances"].has("gt_masks")


def test_test_batches_cover_the_validation_set_at_full_length(root):
    loader = instantiate(config(pixels=128).dataloader.test)
    items = [item for batch in loader for item in batch]
    assert [item["image_id"] for item in items] == [1, 2, 3]
    assert all(item["image"].shape == (3, 96, 128) for item in items)


def test_the_evaluator_follows_the_name_of_the_test_set(root):
    tree = config()
    assert instantiate(tree.dataloader.evaluator).dataset_name == "tiny_val"
    tree.dataloader.test.dataset.names = "tiny_train"
    assert instantiate(tree.dataloader.evaluator).dataset_name == "tiny_train"


def test_a_saved_config_reloads_to_the_same_loaders(root, tmp_path):
    LazyConfig.save(config(), str(tmp_path / "config.yaml"))
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    assert OmegaConf.to_container(again, resolve=False)["dataloader"]["evaluator"]["dataset_name"].startswith("${")
    assert len(first_batch(again)) == 2
    assert instantiate(again.dataloader.evaluator).dataset_name == "tiny_val"


def test_released_defaults_are_the_published_recipe():
    tree = lsj_dataloader()
    assert (tree.train.dataset["names"], tree.test.dataset["names"]) == ("coco_2017_train", "coco_2017_val")
    mapper = tree.train.mapper
    assert (mapper.image_format, mapper.instance_mask_format, mapper.recompute_boxes) == ("RGB", "polygon", True)
    assert mapper.augmentations == {**mapper.augmentations, "pixels": 1024, "scale": [0.1, 2.0], "flip": 0.5}
    assert tree.train.total_batch_size == 64
    assert tree.test.dataset.filter_empty is False
