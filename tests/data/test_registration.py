"""Finding data sets, and saying in one sentence what is not there."""

import os
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf

from eva02_det.data.registration import (
    COCO,
    load_dataset,
    register_coco,
    register_coco_style,
    require_config_datasets,
    require_datasets,
)
from eva02_det.utils.errors import UserError
from tests.data import tiny_coco

REAL = Path(os.environ.get("DETECTRON2_DATASETS") or Path(__file__).resolve().parents[3] / "shared" / "datasets")


def message(raised: pytest.ExceptionInfo) -> str:
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_coco_is_registered_below_the_root_and_follows_it(root, monkeypatch):
    register_coco()
    register_coco()
    assert set(COCO) <= set(DatasetCatalog.list())
    assert MetadataCatalog.get("coco_2017_val").json_file == str(root / "coco/annotations/instances_val2017.json")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root / "elsewhere"))
    register_coco()
    assert MetadataCatalog.get("coco_2017_test-dev").image_root == str(root / "elsewhere/coco/test2017")


def test_a_registration_by_hand_under_a_name_of_coco_stays(root):
    register_coco_style("coco_2017_val", root / "mine.json", root / "mine")
    register_coco()
    assert MetadataCatalog.get("coco_2017_val").json_file == str(root / "mine.json")


def test_a_set_in_the_usual_layout_is_found_by_its_name(root):
    file = tiny_coco.write(root, "train", tiny_coco.content())
    records = load_dataset("tiny_train")
    assert [record["image_id"] for record in records] == [1, 2, 3]
    assert records[0]["file_name"] == str(root / "tiny/train/1.jpg")
    metadata = MetadataCatalog.get("tiny_train")
    assert metadata.json_file == str(file)
    assert metadata.thing_classes == ["near", "far"]


def test_a_set_found_by_its_layout_follows_a_change_of_root(root, tmp_path_factory, monkeypatch):
    tiny_coco.write(root, "train", tiny_coco.content(images=3))
    other = tmp_path_factory.mktemp("other")
    tiny_coco.write(other, "train", tiny_coco.content(images=5))
    assert len(load_dataset("tiny_train", filter_empty=False)) == 3
    monkeypatch.setenv("DETECTRON2_DATASETS", str(other))
    assert len(load_dataset("tiny_train", filter_empty=False)) == 5


def test_several_sets_are_put_together(root):
    for split in ("train", "val"):
        tiny_coco.write(root, split, tiny_coco.content())
    assert len(load_dataset(["tiny_train", "tiny_val"])) == 6


def test_an_image_without_objects_is_for_evaluation_only(root):
    content = tiny_coco.content()
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 2]
    content["annotations"][0]["iscrowd"] = content["annotations"][1]["iscrowd"] = 1
    tiny_coco.write(root, "train", content)
    assert [record["image_id"] for record in load_dataset("tiny_train")] == [3]
    assert [record["image_id"] for record in load_dataset("tiny_train", filter_empty=False)] == [1, 2, 3]


def test_the_first_records_can_be_asked_for_alone(root):
    tiny_coco.write(root, "train", tiny_coco.content())
    everything = load_dataset("tiny_train")
    assert load_dataset("tiny_train", first=2) == everything[:2]
    assert load_dataset("tiny_train", filter_empty=False, first=1) == load_dataset("tiny_train", filter_empty=False)[:1]


def test_a_missing_annotation_file_is_named_with_the_remedy(root):
    with pytest.raises(UserError) as raised:
        require_datasets("coco_2017_val")
    assert str(root / "coco/annotations/instances_val2017.json") in message(raised)
    assert "DETECTRON2_DATASETS" in message(raised)


def test_a_missing_image_folder_is_named(root):
    file = root / COCO["coco_2017_val"][0]
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(UserError, match="val2017") as raised:
        require_datasets(["coco_2017_val"])
    assert "image folder" in message(raised)


def test_an_unknown_name_is_named(root):
    with pytest.raises(UserError, match="coco_2018_train"):
        require_datasets("coco_2018_train")
    with pytest.raises(UserError, match="nonsense"):
        require_datasets("nonsense")


def test_a_config_is_checked_for_the_sets_it_names(root):
    tiny_coco.write(root, "train", tiny_coco.content())
    names = {"train": {"dataset": {"names": "tiny_train"}}, "test": {"dataset": {"names": ["tiny_val"]}}}
    with pytest.raises(UserError, match="tiny_val"):
        require_config_datasets(OmegaConf.create({"dataloader": names}))
    del names["test"]
    require_config_datasets(OmegaConf.create({"dataloader": names}))
    require_config_datasets(OmegaConf.create({"model": None}))


def test_who_evaluates_only_needs_no_training_set(root):
    tiny_coco.write(root, "val", tiny_coco.content())
    names = {"train": {"dataset": {"names": "tiny_train"}}, "test": {"dataset": {"names": ["tiny_val"]}}}
    require_config_datasets(OmegaConf.create({"dataloader": names}), training=False)
    with pytest.raises(UserError, match="tiny_train"):
        require_config_datasets(OmegaConf.create({"dataloader": names}))


def test_a_missing_image_is_found_when_the_set_is_loaded(root):
    tiny_coco.write(root, "train", tiny_coco.content())
    for number in (2, 3):
        (root / f"tiny/train/{number}.jpg").unlink()
    with pytest.raises(UserError) as raised:
        load_dataset("tiny_train")
    assert str(root / "tiny/train/2.jpg") in message(raised)
    assert "1 more" in message(raised)


@pytest.mark.parametrize("text", ['{"images": [', '{"annotations": []}', "[1, 2]"])
def test_a_file_that_is_no_annotation_file_is_named(root, text):
    file = tiny_coco.write(root, "train", tiny_coco.content())
    file.write_text(text)
    with pytest.raises(UserError) as raised:
        load_dataset("tiny_train")
    assert str(file) in message(raised)


def test_a_training_set_without_objects_is_refused(root):
    tiny_coco.write(root, "train", tiny_coco.content() | {"annotations": []})
    with pytest.raises(UserError, match="nothing to train on"):
        load_dataset("tiny_train")


@pytest.mark.skipif(not (REAL / COCO["coco_2017_val"][0]).is_file(), reason=f"no COCO images at {REAL}; set DETECTRON2_DATASETS")
def test_real_coco_loads_with_its_80_classes(root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(REAL))
    records = load_dataset("coco_2017_val", filter_empty=False)
    assert len(MetadataCatalog.get("coco_2017_val").thing_classes) == 80
    assert all(Path(record["file_name"]).is_file() for record in records[:5])
