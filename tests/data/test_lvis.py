"""LVIS v1 from the user's own files."""

import json
import logging
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from eva02_det.data.federated import FederatedClassWeights
from eva02_det.data.registration import load_dataset, register_builtin, register_coco_style
from eva02_det.utils.errors import UserError
from tests.data import tiny_sets

PLACES = ["train2017/3.jpg", "val2017/1.jpg", "val2017/2.jpg"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EVA02_DET_CACHE", str(folder))
    return folder


def test_images_of_both_folders_are_found_by_their_url(root):
    tiny_sets.lvis(root, "val", PLACES)
    records = load_dataset("lvis_v1_val", filter_empty=False)
    assert [record["image_id"] for record in records] == [1, 2, 3]
    assert [record["file_name"] for record in records] == [str(root / "coco" / place) for place in [*PLACES[1:], PLACES[0]]]
    assert all(record["neg_category_ids"] == [5] for record in records)


def test_classes_are_those_of_the_file_in_the_order_of_their_ids(root):
    tiny_sets.lvis(root, "train", PLACES)
    records = load_dataset("lvis_v1_train")
    metadata = MetadataCatalog.get("lvis_v1_train")
    assert metadata.thing_classes == ["aerosol_can", "zebra", "yak"]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 5: 2}
    assert [one["category_id"] for one in records[0]["annotations"]] == [0, 1]


def test_federated_weights_come_from_the_users_file(root):
    tiny_sets.lvis(root, "train", PLACES)
    assert torch.equal(FederatedClassWeights("lvis_v1_train")(), torch.tensor([2.0, 3.0, 1.0]))


def test_detectrons_own_registration_gives_way_and_somebody_elses_stays(root):
    file = tiny_sets.lvis(root, "train", PLACES)
    for name, annotations in (("lvis_v1_train", "elsewhere/lvis_v1_train.json"), ("lvis_v1_val", "mine/my_own.json")):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        register_coco_style(name, root / annotations, root)
    MetadataCatalog.get("lvis_v1_train").class_image_count = [{"id": 1, "image_count": 1}]
    register_builtin()
    assert MetadataCatalog.get("lvis_v1_train").json_file == str(file)
    assert len(FederatedClassWeights("lvis_v1_train")()) == 3
    assert MetadataCatalog.get("lvis_v1_val").json_file == str(root / "mine/my_own.json")


def test_minival_is_cut_out_of_val_once_and_named_in_the_log(root, cache, caplog):
    tiny_sets.lvis(root, "val", PLACES)
    with caplog.at_level(logging.INFO, logger="eva02_det"):
        records = load_dataset("lvis_v1_minival", filter_empty=False)
    assert [record["image_id"] for record in records] == [1, 2]
    metadata = MetadataCatalog.get("lvis_v1_minival")
    assert metadata.split == "minival"
    assert Path(metadata.json_file).parent == cache
    content = json.loads(Path(metadata.json_file).read_text())
    assert {one["image_id"] for one in content["annotations"]} == {1, 2}
    assert content["categories"] == tiny_sets.LVIS_CATEGORIES
    assert "LVIS v1 minival: 2 images" in caplog.text
    written = Path(metadata.json_file).stat().st_mtime_ns
    load_dataset("lvis_v1_val_5k", filter_empty=False)
    assert MetadataCatalog.get("lvis_v1_val_5k").json_file == metadata.json_file
    assert Path(metadata.json_file).stat().st_mtime_ns == written


def test_a_minival_file_of_the_users_own_is_taken_as_it_is(root, cache):
    tiny_sets.lvis(root, "val", PLACES)
    own = tiny_sets.lvis(root, "minival", PLACES[1:2])
    assert len(load_dataset("lvis_v1_minival", filter_empty=False)) == 1
    assert MetadataCatalog.get("lvis_v1_minival").json_file == str(own)
    assert not list(cache.iterdir())


def test_val_is_named_in_the_log_too(root, caplog):
    tiny_sets.lvis(root, "val", PLACES)
    with caplog.at_level(logging.INFO, logger="eva02_det"):
        load_dataset("lvis_v1_val", filter_empty=False)
    assert "LVIS v1 val: 3 images of 3 classes" in caplog.text


def test_missing_images_are_found_before_anything_is_run(root):
    tiny_sets.lvis(root, "val", PLACES)
    (root / "coco/train2017/3.jpg").unlink()
    (root / "coco/val2017/2.jpg").unlink()
    with pytest.raises(UserError, match=r"does not exist \(and 1 more\)"):
        load_dataset("lvis_v1_val", filter_empty=False)


def test_a_missing_file_is_named_by_both_its_names(root):
    (root / "coco").mkdir()
    with pytest.raises(UserError, match=r"lvis/lvis_v1_minival\.json"):
        load_dataset("lvis_v1_minival")


def test_masks_without_three_corners_are_left_out(root):
    content = tiny_sets.lvis_content(PLACES)
    content["annotations"][0]["segmentation"] = [[1.0, 2, 3, 4]]
    content["annotations"][1]["segmentation"].append([1.0, 2, 3, 4])
    tiny_sets.lvis(root, "train", PLACES, content)
    records = load_dataset("lvis_v1_train")
    of_third = records[-1]["annotations"]
    assert [one["category_id"] for one in of_third] == [1]
    assert len(of_third[0]["segmentation"]) == 1
