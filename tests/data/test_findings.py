"""Every fault of an annotation file is counted, and its first occurrence named."""

import math

import pytest

from eva02_det.data.findings import inspect, read_annotation_file
from eva02_det.utils.errors import UserError
from tests.data import tiny_coco

SIZE = [tiny_coco.HEIGHT, tiny_coco.WIDTH]


def content() -> dict:
    return tiny_coco.content() | {"categories": [dict(one) for one in tiny_coco.CATEGORIES]}


def test_a_sound_file_has_no_findings():
    assert inspect(content()) == []
    assert inspect({key: value for key, value in content().items() if key != "annotations"}) == []


def change(where: str, key: str, value: object, index: int = 1):
    """A fault: one field of one entry."""

    def spoil(data: dict) -> None:
        data[where][index][key] = value

    return spoil


FATAL = [
    (change("categories", "id", 3), "categories share their id", "category 3"),
    (change("categories", "name", None), "no 'name'", "'id': 9"),
    (change("images", "id", 1), "images share their id", "image 1"),
    (change("images", "height", 0), "'height' and 'width' above zero", "'id': 2"),
    (change("images", "width", None), "'height' and 'width' above zero", "'id': 2"),
    (change("images", "file_name", 7), "no 'file_name'", "image 2"),
    (change("annotations", "id", 10), "annotations share their id", "annotation 10"),
    (change("annotations", "id", "x"), "no whole number 'id'", "'x'"),
    (change("annotations", "image_id", 77), "an image that the file does not list", "annotation 11, image 77"),
    (change("annotations", "category_id", 4), "a category that the file does not define", "annotation 11, category 4"),
    (change("annotations", "bbox", [1, 2, 3]), "no 'bbox' of four numbers", "[1, 2, 3]"),
    (change("annotations", "bbox", [1, 2, math.nan, 3]), "boxes hold a number that is not finite", "annotation 11"),
    (change("annotations", "segmentation", [[1, 2, 3, 4, 5, math.inf]]), "polygons hold a number", "annotation 11"),
    (change("annotations", "segmentation", [["a"] * 6]), "no lists of numbers", "annotation 11"),
    (
        change("annotations", "segmentation", {"size": SIZE[::-1], "counts": "x"}),
        "not of the size of their image",
        "annotation 11",
    ),
    (change("annotations", "segmentation", {"size": SIZE, "counts": [3, 4]}), "do not add up", "annotation 11"),
    (change("annotations", "segmentation", "abc"), "neither polygons nor run lengths", "annotation 11, str"),
]
HARMLESS = [
    (change("categories", "name", "near"), "category names stand for several", "'near'"),
    (change("images", "file_name", "1.jpg"), "listed several times", "'1.jpg'"),
    (change("annotations", "bbox", [1, 2, 0, 5]), "no area", "annotation 11"),
    (change("annotations", "bbox", [100, 2, 5, 5]), "wholly outside", "annotation 11"),
    (change("annotations", "bbox", [-9, 2, 15, 5]), "reach over the edge", "annotation 11"),
    (change("annotations", "segmentation", [[1, 2, 3, 4]]), "no polygon of three corners", "annotation 11"),
    (change("annotations", "segmentation", [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6]]), "a polygon of fewer than", "annotation 11"),
]


@pytest.mark.parametrize(("spoil", "what", "first"), FATAL + HARMLESS)
def test_a_fault_is_named_with_its_place(spoil, what, first):
    data = content()
    spoil(data)
    found = [finding for finding in inspect(data) if what in finding.what]
    assert [finding.count for finding in found] == [1]
    assert first in found[0].first
    assert found[0].fatal == ((spoil, what, first) in FATAL)


def test_equal_faults_are_counted_together_and_the_first_is_named():
    data = content()
    for annotation in data["annotations"][2:]:
        annotation["category_id"] = 1
    assert [str(finding) for finding in inspect(data)] == [
        "4 annotations are of a category that the file does not define (the first: annotation 20, category 1)"
    ]


def test_empty_lists_are_faults():
    assert {finding.what for finding in inspect({"images": [], "categories": [], "annotations": []}) if finding.fatal} == {
        "list of categories is empty",
        "list of images is empty",
    }


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"images": []}', '{"images": [], "categories": {}}', '{"images": [1], "categories": []}']
)
def test_what_is_not_of_cocos_format_is_refused_in_one_sentence(tmp_path, text):
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"a\.json") as raised:
        read_annotation_file(file)
    assert "\n" not in str(raised.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.json does not exist"):
        read_annotation_file(tmp_path / "gone.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_annotation_file(tmp_path)
