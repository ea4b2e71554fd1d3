"""The evaluation set: splits, counts and files, of any registered data set, and the sentences for what cannot be one."""

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog

from eva02_det.contamination.evaluation_images import open_evaluation
from eva02_det.utils.errors import UserError
from tests.contamination.made_up import coco_image, lvis_image, lvis_set, objects, write


def test_lvis_val_is_split_into_the_folders_of_coco_that_its_addresses_name(root: Path):
    lvis_set(root, {3: "train2017", 8: "val2017", 5: "train2017"})
    found = open_evaluation("lvis_v1_val")
    assert [(image.image_id, image.split, image.entry.file) for image in found.images] == [
        (3, "train2017", "train2017/000000000003.jpg"),
        (5, "train2017", "train2017/000000000005.jpg"),
        (8, "val2017", "val2017/000000000008.jpg"),
    ]
    assert found.frequency == {1: "rare", 2: "common", 3: "frequent"}
    found.require_images()


def test_instances_are_counted_by_category_and_crowds_are_left_out(root: Path):
    crowd = [{**one, "id": one["id"] + 50, "iscrowd": 1} for one in objects(8, [1])]
    write(
        root / "coco/annotations/instances_val2017.json",
        [coco_image(8, "val2017"), coco_image(9, "val2017")],
        objects(8, [1, 1, 3]) + crowd,
    )
    found = open_evaluation("coco_2017_val")
    assert [image.objects for image in found.images] == [{1: 2, 3: 1}, {}]
    assert (found.instances, {image.split for image in found.images}) == (3, {"val2017"})


def test_minival_is_cut_out_of_val(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("EVA02_DET_CACHE", str(tmp_path / "derived"))
    lvis_set(root, {3: "train2017", 8: "val2017"})
    assert [image.image_id for image in open_evaluation("lvis_v1_minival").images] == [8]


def test_a_set_that_lies_where_its_name_says_needs_no_registration(root: Path):
    write(root / "mine/annotations/instances_val.json", [{"id": 4, "file_name": "b/1.jpg"}], objects(4, [2]))
    (image,) = open_evaluation("mine_val").images
    assert (image.path, image.split, image.entry.identity) == (str(root / "mine/val/b/1.jpg"), "val", None)


def test_a_data_set_that_is_a_function_is_read_by_calling_it(root: Path):
    records = [
        {"file_name": f"{root}/set/{folder}/1.jpg", "image_id": number, "annotations": [{"category_id": 0}]}
        for number, folder in ((4, "a"), (2, "b"))
    ]
    DatasetCatalog.register("by_hand", lambda: records)
    found = open_evaluation("by_hand")
    assert [(image.image_id, image.entry.file, image.split) for image in found.images] == [
        (2, "b/1.jpg", "set"),
        (4, "a/1.jpg", "set"),
    ]
    assert (found.instances, found.json_file) == (2, None)


def test_the_digest_changes_with_ids_names_and_objects_alone(root: Path):
    lvis_set(root, {3: "train2017", 8: "val2017"})
    before = open_evaluation("lvis_v1_val").digest
    assert open_evaluation("lvis_v1_val").digest == before
    for images, annotations in (
        ([lvis_image(3, "train2017"), lvis_image(9)], objects(3, [1, 2, 3])),
        ([lvis_image(3, "val2017"), lvis_image(8)], objects(3, [1, 2, 3])),
        ([lvis_image(3, "train2017"), lvis_image(8)], objects(3, [1, 2])),
    ):
        write(root / "lvis/lvis_v1_val.json", images, annotations)
        assert open_evaluation("lvis_v1_val").digest != before


def test_missing_images_are_counted_and_the_way_without_them_is_named(root: Path):
    lvis_set(root, {3: "train2017", 8: "val2017"})
    (root / "coco/val2017/000000000008.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 2 images .* do not exist .*000000000008.jpg\); download them, .* --stages id"):
        open_evaluation("lvis_v1_val").require_images()


def test_what_cannot_be_an_evaluation_set_is_said_in_a_sentence(root: Path, tmp_path: Path):
    DatasetCatalog.register("nothing", list)
    DatasetCatalog.register("strings", lambda: [{"file_name": "/a/b.jpg", "image_id": "b"}])
    for spec, sentence in (
        ("no_such_set", "data set 'no_such_set' is not known"),
        (str(tmp_path), "neither a registered data set nor an annotation file"),
        (str(write(tmp_path / "empty.json", [])), "has no image: the list 'images' of .* is empty"),
        (str(write(tmp_path / "twice.json", [coco_image(1), coco_image(1)])), "lists image 1 2 times"),
        (str(write(tmp_path / "text.json", [{**coco_image(1), "id": "x"}])), "has the image id 'x'; ids must be whole numbers"),
        (str(write(tmp_path / "no_name.json", [{"id": 1}])), "an image has no 'file_name'"),
        (str(write(tmp_path / "no_class.json", [coco_image(1)], [{"image_id": 1}])), "an annotation has no 'category_id'"),
        ("nothing", "its function gives no records"),
        ("strings", "has the image id 'b'"),
    ):
        with pytest.raises(UserError, match=sentence):
            open_evaluation(spec)
