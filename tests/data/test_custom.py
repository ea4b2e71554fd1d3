"""A user's own annotation file becomes a data set, or a sentence."""

import json
import logging

import pytest

from eva02_det.data.custom import custom_dataset
from eva02_det.data.registration import load_dataset
from eva02_det.utils.errors import UserError
from tests.data import tiny_coco


@pytest.fixture
def files(root):
    """The annotation file and the folder of images."""
    return tiny_coco.write(root, "train", tiny_coco.content()), root / "tiny/train"


def rewrite(file, **parts) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | parts))


def test_a_sound_file_is_registered_under_a_name_that_every_process_finds_again(files):
    first, again = custom_dataset(*files), custom_dataset(str(files[0]), str(files[1]))
    assert first == again
    assert first.classes == ("near", "far")
    assert first.has_masks
    assert len(load_dataset(first.name)) == 3
    assert load_dataset(first.name)[0]["file_name"] == str(files[1] / "1.jpg")


def test_two_files_of_one_name_have_different_names(files, tmp_path):
    other = tmp_path / "other" / files[0].name
    other.parent.mkdir()
    other.write_text(files[0].read_text())
    assert custom_dataset(other, files[1]).name != custom_dataset(*files).name
    assert custom_dataset(other, files[1], name="mine").name == "mine"
    assert len(load_dataset("mine")) == 3


def test_classes_are_in_the_order_of_their_ids(files):
    rewrite(files[0], categories=[{"id": 9, "name": "far"}, {"id": 3, "name": "near"}])
    assert custom_dataset(*files).classes == ("near", "far")


def test_masks_are_used_only_where_every_object_has_one(files, caplog):
    content = json.loads(files[0].read_text())
    content["annotations"][0]["segmentation"] = []
    rewrite(files[0], **content)
    with caplog.at_level(logging.WARNING, logger="eva02_det"):
        assert not custom_dataset(*files).has_masks
    assert "only 5 of 6 objects have a mask" in caplog.text
    content["annotations"][0]["iscrowd"] = 1
    rewrite(files[0], **content)
    assert custom_dataset(*files).has_masks
    for annotation in content["annotations"]:
        annotation.pop("segmentation")
    rewrite(files[0], **content)
    assert not custom_dataset(*files).has_masks


def test_faults_are_one_sentence_with_counts_the_first_places_and_the_file(files):
    content = json.loads(files[0].read_text())
    content["annotations"][0]["image_id"] = content["annotations"][1]["image_id"] = 50
    content["annotations"][2]["category_id"] = 8
    content["annotations"][3]["bbox"] = None
    content["annotations"][4]["id"] = 31
    rewrite(files[0], **content)
    with pytest.raises(UserError) as raised:
        custom_dataset(*files)
    text = str(raised.value)
    assert text.startswith(f"{files[0]}: ")
    assert "2 annotations belong to an image that the file does not list (the first: annotation 10, image 50)" in text
    assert "and faults of 1 more kinds" in text
    assert "\n" not in text


def test_missing_images_are_counted(files):
    for number in (1, 3):
        (files[1] / f"{number}.jpg").unlink()
    with pytest.raises(UserError, match=r"2 images do not exist \(the first: .*1\.jpg\)"):
        custom_dataset(*files)


def test_a_missing_folder_or_file_is_named(files):
    with pytest.raises(UserError, match="image folder nowhere"):
        custom_dataset(files[0], "nowhere")
    with pytest.raises(UserError, match=r"gone\.json"):
        custom_dataset("gone.json", files[1])


def test_what_is_only_left_out_is_a_warning(files, caplog):
    content = json.loads(files[0].read_text())
    content["annotations"][0]["bbox"] = [500, 1, 5, 5]
    rewrite(files[0], **content)
    with caplog.at_level(logging.WARNING, logger="eva02_det"):
        custom_dataset(*files)
    assert "1 boxes lie wholly outside" in caplog.text
