"""Joins by name alone: what they find, and what they must not take for the same image."""

import pytest

from eva02_det.contamination.joins import Joins, stem
from eva02_det.contamination.listing import Entry, entry_of
from tests.contamination.made_up import coco_image, lvis_image, objects365_image

ALL = ("id", "file_name", "url")


def joined(evaluation: dict, corpus: dict, stages: tuple[str, ...] = ALL) -> list[str]:
    """By what an image of a corpus is joined with one of the evaluation set."""
    return Joins([entry_of(evaluation)], stages).find(entry_of(corpus)).get(0, [])


@pytest.mark.parametrize("folder", ["train2017", "train2014", "val2014"])
def test_images_of_coco_in_any_year_join_with_lvis_by_id(folder: str):
    assert joined(lvis_image(391895, "train2017"), coco_image(391895, folder)) == ["id", "file_name", "url"]
    assert joined(lvis_image(391895, "train2017"), coco_image(391896, folder)) == []


def test_the_same_number_in_objects365_is_another_image():
    assert joined(lvis_image(391895), objects365_image(391895)) == []


def test_objects365_joins_with_itself_by_id():
    assert joined(objects365_image(5), objects365_image(5)) == ["id", "file_name"]


def test_a_number_that_nothing_ties_to_coco_joins_by_file_name_alone():
    unrelated = {"id": 1, "file_name": "000000000001.jpg"}
    assert joined(lvis_image(1), unrelated) == ["file_name"]
    assert joined(lvis_image(1), {**unrelated, "coco_url": "http://images.cocodataset.org/val2017/000000000009.jpg"}) == [
        "file_name"
    ]
    assert joined(lvis_image(1), {**unrelated, "coco_url": "http://example.org/val2017/000000000001.jpg"}) == ["file_name"]


def test_ids_join_where_the_user_says_that_they_are_cocos():
    entry = entry_of({"id": 1, "file_name": "a.jpg"}, coco_ids=True)
    assert Joins([entry_of(lvis_image(1))], ALL).find(entry) == {0: ["id"]}


def test_one_photograph_of_flickr_joins_by_its_number_whatever_its_size_and_server():
    theirs = objects365_image(77, url="https://live.staticflickr.com/65535/7391895_0a1b2c_b.jpg")
    assert joined(lvis_image(391895), theirs) == ["url"]
    assert joined(
        {"id": 1, "file_name": "a", "url": "http://www.A.org/b.jpg"}, {"id": 2, "file_name": "c", "url": "https://a.org/b.jpg"}
    ) == ["url"]
    assert joined({"id": 1, "file_name": "a", "url": ""}, {"id": 2, "file_name": "c", "url": ""}) == []


def test_only_the_stages_asked_for_join():
    assert joined(lvis_image(5), coco_image(5), ("url", "bytes")) == ["url"]
    assert joined(lvis_image(5), coco_image(5), ()) == []


def test_all_images_that_share_a_key_are_found():
    search = Joins([Entry(1, "a/x.jpg", None, ""), Entry(2, "y.jpg", None, ""), Entry(3, "b/X.png", None, "")], ALL)
    assert search.find(Entry(0, "shard.tar/x.webp", None, "")) == {0: ["file_name"], 2: ["file_name"]}


def test_the_stem_of_a_file_name_leaves_out_what_copying_changes():
    assert stem("/a/b/COCO_val2014_000000000042.jpg") == stem("c\\000000000042.PNG") == "000000000042"
    assert stem("COCO_val2014_cat.jpg") == "coco_val2014_cat"
    assert stem("noending") == "noending"
