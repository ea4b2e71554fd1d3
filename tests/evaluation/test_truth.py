"""Annotation files as columns: what is kept, what is left out, parts, and errors that name the file."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from eva02_det.evaluation.truth import LARGEST_AREA, read_truth, truth_of
from eva02_det.utils.errors import UserError
from tests.evaluation import scenes


def written(folder, content) -> str:
    file = folder / "annotations.json"
    file.write_text(json.dumps(content))
    return str(file)


def small(**more) -> dict:
    """Two images and two categories out of order, one object each."""
    return {
        "images": [{"id": 9, "height": 40, "width": 50}, {"id": 4, "height": 30, "width": 20}],
        "categories": [{"id": 7, "name": "cup"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": 0, "image_id": 9, "category_id": 2, "bbox": [1, 2, 3, 4], "iscrowd": 1},
            {"id": 1, "image_id": 4, "category_id": 7, "bbox": [5, 6, 7, 8], "area": 50},
        ],
        **more,
    }


def test_rows_are_in_the_order_of_ids_and_annotations_point_at_them(tmp_path):
    truth = read_truth(written(tmp_path, small()))
    assert truth.image_ids.tolist() == [4, 9]
    assert truth.sizes.tolist() == [[30, 20], [40, 50]]
    assert truth.names == ("cat", "cup")
    assert truth.image.tolist() == [1, 0]
    assert truth.category.tolist() == [0, 1]
    assert truth.areas.tolist() == [12, 50]  # where none is stated, that of the box
    assert truth.crowd.tolist() == [True, False]
    assert not truth.with_masks
    assert not truth.federated
    assert truth.image_rows(np.array([9, 5, 4])).tolist() == [1, -1, 0]


def test_images_may_have_names_for_ids():
    content = small()
    for image, name in zip(content["images"], ("b.jpg", "a.jpg")):
        image["id"] = name
    for one in content["annotations"]:
        one["image_id"] = {9: "b.jpg", 4: "a.jpg"}[one["image_id"]]
    truth = truth_of(content)
    assert truth.image_ids.tolist() == ["a.jpg", "b.jpg"]
    assert truth.image.tolist() == [1, 0]
    assert truth.image_rows(np.array(["b.jpg", "c.jpg"])).tolist() == [1, -1]
    assert truth.image_rows(np.array([1])).tolist() == [-1]


def test_what_belongs_to_no_image_or_category_is_left_out_with_a_warning(caplog):
    content = small()
    content["annotations"] += [{**content["annotations"][0], "image_id": 5}, {**content["annotations"][0], "category_id": 5}]
    assert len(truth_of(content).image) == 2
    assert "2 of 4 annotations" in caplog.text


def test_masks_are_read_to_the_bitmaps_that_coco_makes_of_them(tmp_path):
    truth = scenes.ground_truth(2)
    polygon = [10.5, 10, 60, 12, 40, 70.25]
    image = truth["annotations"][0]["image_id"]
    bitmap = coco_mask.decode(truth["annotations"][0]["segmentation"])
    flat = bitmap.ravel(order="F")
    raw = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], flat, [2]]))))
    raw = raw.tolist() if flat[0] == 0 else [0, *raw.tolist()]
    one = {**truth["annotations"][0], "id": 500}
    truth["annotations"] = [
        truth["annotations"][0],
        {**one, "segmentation": {"size": [96, 96], "counts": raw}},
        {**one, "segmentation": [polygon, [70, 70, 90, 70, 90, 90]]},
    ]
    found = read_truth(written(tmp_path, truth))
    assert found.image_ids[found.image[0]] == image
    first, second, third = found.run_lengths()
    np.testing.assert_array_equal(coco_mask.decode(first), bitmap)
    np.testing.assert_array_equal(coco_mask.decode(second), bitmap)
    expected = coco_mask.merge(coco_mask.frPyObjects(truth["annotations"][2]["segmentation"], 96, 96))
    assert third == expected
    without = read_truth(written(tmp_path, truth), masks=False)
    assert without.with_masks
    with pytest.raises(UserError, match="no masks"):
        without.run_lengths()


def test_lvis_lists_become_pairs_and_objects_without_area_are_left_out():
    content = scenes.federated_truth(1)
    content["annotations"][0]["area"] = 0
    content["annotations"][1]["ignore"] = 1
    truth = truth_of(content, federated=True)
    assert len(truth.image) == len(content["annotations"]) - 1
    assert truth.areas[0] > LARGEST_AREA  # to be ignored at every size
    for pairs, key in ((truth.absent, "neg_category_ids"), (truth.incomplete, "not_exhaustive_category_ids")):
        stated = {(image["id"], category) for image in content["images"] for category in image[key]}
        image, category = np.divmod(pairs, len(truth.names))
        assert set(zip(truth.image_ids[image].tolist(), truth.category_ids[category].tolist())) == stated
    assert truth.frequency.tolist() == ["r", "c", "f", "c"]
    assert not truth.crowd.any()


def test_a_part_is_what_a_file_of_that_part_would_be():
    content = scenes.federated_truth(1)
    images, categories = [2, 3, 5], [2, 7, 11]
    smaller = copy.deepcopy(content)
    smaller["images"] = [image for image in smaller["images"] if image["id"] in images]
    smaller["categories"] = [category for category in smaller["categories"] if category["id"] in categories]
    kept = [one for one in smaller["annotations"] if one["image_id"] in images and one["category_id"] in categories]
    smaller["annotations"] = kept
    truth = truth_of(content, federated=True)
    part = truth.of_images(truth.image_rows(np.array(images))).of_categories(np.array([0, 2, 3]))
    expected = truth_of(smaller, federated=True)
    for name, value in vars(expected).items():
        found = getattr(part, name)
        assert (found == value) if isinstance(value, tuple | bool) else np.array_equal(found, value), name


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not valid JSON"),
        ("{}", "not usable as COCO annotations .*images"),
        ('{"images": [{"id": 1}], "categories": [], "annotations": []}', "not usable as COCO annotations .*height"),
    ],
)
def test_a_file_that_is_no_annotation_file_is_named(tmp_path, content, reason):
    file = tmp_path / "broken.json"
    file.write_text(content)
    with pytest.raises(UserError, match=f"broken.json.*{reason}"):
        read_truth(str(file))


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent.json does not exist"):
        read_truth(str(tmp_path / "absent.json"))
