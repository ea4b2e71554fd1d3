"""The tables of data sets and of what is known about them."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog


@pytest.fixture
def name():
    yield "catalog_test"
    for table in (DatasetCatalog, MetadataCatalog):
        if "catalog_test" in table:
            table.remove("catalog_test")


def test_a_registered_function_is_called_when_the_data_set_is_asked_for(name):
    calls = []
    DatasetCatalog.register(name, lambda: calls.append(1) or [{"image_id": 7}])
    assert not calls
    assert name in DatasetCatalog.list()
    assert DatasetCatalog.get(name) == [{"image_id": 7}]


def test_a_name_is_registered_once_and_can_be_given_back(name):
    DatasetCatalog.register(name, list)
    with pytest.raises(AssertionError):
        DatasetCatalog.register(name, list)
    DatasetCatalog.remove(name)
    DatasetCatalog.register(name, list)


def test_an_unknown_name_is_a_key_error_that_lists_the_known_ones(name):
    DatasetCatalog.register(name, list)
    with pytest.raises(KeyError, match=name):
        DatasetCatalog.get("no_such_set")


def test_metadata_is_one_object_per_name_and_keeps_what_it_was_told(name):
    MetadataCatalog.get(name).set(thing_classes=["a", "b"]).evaluator_type = "coco"
    again = MetadataCatalog.get(name)
    assert again.thing_classes == ["a", "b"]
    assert again.evaluator_type == "coco"
    assert again.as_dict()["name"] == name
    assert again.get("json_file") is None
    assert again.get("json_file", 3) == 3


def test_metadata_cannot_contradict_itself(name):
    metadata = MetadataCatalog.get(name).set(thing_classes=["a"])
    metadata.thing_classes = ["a"]
    with pytest.raises(AssertionError):
        metadata.thing_classes = ["b"]
    with pytest.raises(AttributeError, match="json_file"):
        _ = metadata.json_file
