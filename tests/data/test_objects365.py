"""Objects365 v2 in the folders that people have it in."""

import logging

import pytest
from detectron2.data import MetadataCatalog

from eva02_det.data.objects365 import NEVER_RELEASED
from eva02_det.data.registration import load_dataset
from eva02_det.utils.errors import UserError
from tests.data import tiny_sets

NAMES = ["objects365_v1_00000001.jpg", "objects365_v1_00000002.jpg"]


@pytest.mark.parametrize("folder", ["objects365", "Objects365", "o365"])
@pytest.mark.parametrize("images", ["images/v1/patch0", "images/patch0", "patch0", "train/patch0", "images/train/patch0"])
def test_images_are_found_where_they_lie(root, folder, images):
    tiny_sets.objects365(root, "train", NAMES, folder=folder, images=images)
    records = load_dataset("objects365_train")
    assert [record["file_name"] for record in records] == [str(root / folder / images / name) for name in NAMES]


def test_images_may_be_spread_over_several_folders(root):
    tiny_sets.objects365(root, "val", NAMES, folder="objects365", images="val/patch0")
    lies = root / "objects365/val/patch0" / NAMES[1]
    (root / "objects365/patch0").mkdir()
    lies.rename(root / "objects365/patch0" / NAMES[1])
    found = [record["file_name"] for record in load_dataset("objects365_val")]
    assert found == [str(root / "objects365" / place) for place in (f"val/patch0/{NAMES[0]}", f"patch0/{NAMES[1]}")]


def test_class_names_stay_as_the_file_has_them_and_there_are_no_masks(root):
    tiny_sets.objects365(root, "train", NAMES, folder="o365", images="patch0")
    records = load_dataset("objects365_train")
    assert MetadataCatalog.get("objects365_train").thing_classes == ["Table Tennis ", "Bakset"]
    assert [one["category_id"] for record in records for one in record["annotations"]] == [0, 0]
    assert not any("segmentation" in one for record in records for one in record["annotations"])


def test_the_three_images_that_no_archive_has_are_left_out_and_said(root, caplog):
    names = [*NAMES, NEVER_RELEASED[1]]
    tiny_sets.objects365(root, "train", names, folder="o365", images="patch0")
    assert len(load_dataset("objects365_train")) == 3  # somebody may have them
    (root / "o365/patch0" / NEVER_RELEASED[1]).unlink()
    with caplog.at_level(logging.INFO, logger="eva02_det"):
        assert len(load_dataset("objects365_train")) == 2
    assert NEVER_RELEASED[1] in caplog.text
    assert "no archive contains it" in caplog.text


def test_any_other_missing_image_is_an_error(root):
    tiny_sets.objects365(root, "train", NAMES, folder="o365", images="patch0")
    (root / "o365/patch0" / NAMES[0]).unlink()
    with pytest.raises(UserError, match=NAMES[0]):
        load_dataset("objects365_train")


def test_train_and_val_are_apart_and_the_releases_sum_says_so(root, caplog):
    for split, names in (("train", NAMES[:1]), ("val", NAMES[1:])):
        tiny_sets.objects365(root, split, names, folder="objects365", images=f"{split}/patch0")
    with caplog.at_level(logging.WARNING, logger="eva02_det"):
        assert len(load_dataset("objects365_train")) == len(load_dataset("objects365_val")) == 1
        assert not [line for line in caplog.records if line.name.startswith("eva02_det")]
        together = load_dataset("objects365_trainval")
    assert [record["file_name"].rsplit("/", 1)[1] for record in together] == NAMES
    assert "AP on val is that of training data" in caplog.text


def test_a_missing_set_names_the_usual_folder(root):
    with pytest.raises(UserError, match=r"objects365/annotations/zhiyuan_objv2_train\.json"):
        load_dataset("objects365_train")
