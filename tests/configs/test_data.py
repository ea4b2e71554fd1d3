"""The loaders of a config: what it builds, how it is changed and saved."""

import sys
from itertools import islice
from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, PolygonMasks
from omegaconf import DictConfig, OmegaConf

from configs.common.data import lsj_dataloader
from eva02_det.data.jitter_mapper import JitterMapper
from eva02_det.evaluation.lvis import LvisEvaluator
from tests.data import tiny_coco, tiny_sets


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setenv("EVA02_DET_CACHE", str(tmp_path / "cache"))
    for split in ("train", "val"):
        tiny_coco.write(tmp_path, split, tiny_coco.content())
    functions, facts = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    yield tmp_path
    for table, before in ((DatasetCatalog, functions), (MetadataCatalog, facts)):
        table.data.clear()
        table.data.update(before)


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


@pytest.mark.parametrize("workers", [0, 2])
def test_test_batches_come_in_the_order_of_the_ids_with_any_number_of_workers(tmp_path, root, workers):
    tiny_coco.write(tmp_path, "val", tiny_coco.content(images=9))
    loader = instantiate(config(test_workers=workers).dataloader.test)
    assert [item["image_id"] for batch in loader for item in batch] == list(range(1, 10))


def test_an_image_is_opened_once_for_training_and_once_for_evaluation(root):
    tree, opened = config(batch_size=1), []
    loaders = {split: instantiate(tree.dataloader[split]) for split in ("train", "test")}
    sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)
    for split, loader in loaders.items():
        opened.clear()
        seen = [batch[0]["file_name"] for batch in islice(iter(loader), 3)]
        assert sorted(one for one in opened if str(one).endswith(".jpg")) == sorted(seen)
        assert len(set(seen)) == 3, split


def test_lvis_is_read_once_sampled_by_rarity_and_scored_by_its_own_rules(root, tmp_path):
    file = tiny_sets.lvis(tmp_path, "train", ["train2017/1.jpg", "val2017/2.jpg"])
    tiny_sets.lvis(tmp_path, "val", ["val2017/3.jpg"])
    tree = OmegaConf.create(flags={"allow_objects": True})
    tree.dataloader = lsj_dataloader("lvis_v1", pixels=64, batch_size=2, workers=0, repeat_threshold=0.001)
    opened = []
    sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
    loader = instantiate(tree.dataloader.train)
    assert opened.count(str(file)) == 1
    assert loader.draws.order.factors is not None
    assert loader.draws.order.factors.min() >= 1
    assert len(next(iter(loader))) == 2
    evaluator = instantiate(tree.dataloader.evaluator)
    assert isinstance(evaluator, LvisEvaluator)
    assert (evaluator.dataset_name, tree.dataloader.evaluator.max_detections) == ("lvis_v1_val", 300)


def test_other_sets_than_the_two_of_the_name_can_be_named(root):
    tree = lsj_dataloader("lvis_v1", test="lvis_v1_minival", max_detections=1000)
    assert (tree.train.dataset["names"], tree.test.dataset["names"]) == ("lvis_v1_train", "lvis_v1_minival")
    assert tree.evaluator.max_detections == 1000
    tree = lsj_dataloader("objects365", train=["objects365_train", "objects365_val"], masks=False, max_detections=50)
    assert tree.train.dataset["names"] == ["objects365_train", "objects365_val"]
    assert tree.test.dataset["names"] == "objects365_val"
    assert tree.evaluator.max_detections == [1, 10, 50]
    assert (tree.train.mapper.use_instance_mask, tree.train.mapper.recompute_boxes) == (False, False)


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
    assert mapper["_target_"] in (JitterMapper, "eva02_det.data.jitter_mapper.JitterMapper")
    assert (mapper.image_format, mapper.instance_mask_format, mapper.recompute_boxes) == ("RGB", "polygon", True)
    assert mapper.augmentations == {**mapper.augmentations, "pixels": 1024, "scale": [0.1, 2.0], "flip": 0.5}
    assert tree.train.total_batch_size == 64
    assert tree.test.dataset.filter_empty is False
