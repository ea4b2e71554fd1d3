"""Image counts of classes, from an annotation file."""

import json

import pytest

from eva02_det.data.counts import ImageCounts, read_categories
from eva02_det.utils.errors import UserError
from tests.data import tiny_coco, tiny_sets


def written(folder, content) -> str:
    file = folder / "annotations.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(file)


def test_stated_counts_are_taken(tmp_path):
    file = written(tmp_path, tiny_sets.lvis_content(["train2017/1.jpg"]))
    assert list(ImageCounts(file)) == [{"id": 2, "image_count": 9}, {"id": 1, "image_count": 4}, {"id": 5, "image_count": 1}]


def test_absent_counts_are_counted_image_by_image_not_object_by_object(tmp_path):
    content = tiny_coco.content()
    content["annotations"].append(tiny_coco.square(99, 1, 3, 1, 1, 5))
    content["annotations"] = [one for one in content["annotations"] if (one["image_id"], one["category_id"]) != (2, 9)]
    counts = ImageCounts(written(tmp_path, content))
    assert {one["id"]: one["image_count"] for one in counts} == {3: 3, 9: 2}
    assert len(counts) == 2
    assert counts[0]["id"] == 3


@pytest.mark.parametrize("first", [True, False])
def test_categories_are_read_wherever_they_stand_and_however_long_they_are(tmp_path, first):
    categories = [{"id": number, "name": f"class {number}", "def": "ä" * 700} for number in range(2000)]
    images = [{"id": 1, "file_name": 'not "categories": [] at all'}]
    parts = {"categories": categories, "images": images} if first else {"images": images, "categories": categories}
    assert read_categories(written(tmp_path, json.dumps(parts, ensure_ascii=False, indent=1))) == categories


def test_a_file_without_categories_is_said_to_have_none(tmp_path):
    assert read_categories(written(tmp_path, {"images": []})) is None
    assert read_categories(written(tmp_path, '{"categories": [{"id": 1, "na')) is None


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"categories": [{"id": 1}]}'])
def test_what_cannot_be_counted_is_named(tmp_path, content):
    file = written(tmp_path, content)
    with pytest.raises(UserError, match="no image counts") as raised:
        list(ImageCounts(file))
    assert file in str(raised.value)


def test_an_absent_file_is_named_with_the_remedy():
    with pytest.raises(UserError, match=r"nowhere\.json.*DETECTRON2_DATASETS"):
        len(ImageCounts("nowhere.json"))


def test_two_counts_of_one_file_are_equal():
    assert ImageCounts("a.json") == ImageCounts("a.json") != ImageCounts("b.json")
