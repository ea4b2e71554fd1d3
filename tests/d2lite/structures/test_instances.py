"""The record of an image's objects."""

import copy
import pickle

import pytest
import torch
from detectron2.structures import Boxes, Instances, PolygonMasks


def record(count: int = 3) -> Instances:
    found = Instances((20, 30))
    found.pred_boxes = Boxes(torch.arange(4.0 * count).reshape(count, 4))
    found.scores = torch.linspace(0, 1, count)
    found.names = [f"object {row}" for row in range(count)]
    return found


def test_fields_are_reached_as_attributes_and_by_name():
    found = record()
    assert found.get("scores") is found.scores
    assert found.has("names")
    assert not found.has("masks")
    assert list(found.get_fields()) == ["pred_boxes", "scores", "names"]
    found.remove("names")
    assert not found.has("names")


def test_fields_can_be_given_to_the_constructor():
    assert Instances((2, 2), scores=torch.ones(4)).scores.tolist() == [1, 1, 1, 1]


def test_an_unknown_field_is_an_attribute_error():
    with pytest.raises(AttributeError):
        record().masks  # noqa: B018


def test_a_field_of_another_length_is_refused():
    with pytest.raises(AssertionError):
        record().labels = torch.zeros(2)


def test_the_only_field_may_be_replaced_by_one_of_the_same_length():
    found = record()
    found.scores = torch.zeros(3)
    assert found.scores.sum() == 0


def test_without_fields_there_is_no_length():
    with pytest.raises(NotImplementedError):
        len(Instances((2, 2)))


def test_indexing_by_tensor_takes_every_field():
    found = record_of_tensors()[torch.tensor([2, 0])]
    assert found.image_size == (20, 30)
    assert found.scores.tolist() == [1, 0]
    assert found.pred_boxes.tensor[:, 0].tolist() == [8, 0]


def record_of_tensors() -> Instances:
    found = record()
    found.remove("names")
    return found


def test_indexing_by_int_mask_and_slice():
    found = record_of_tensors()
    assert len(found[1]) == 1
    assert found[-1].scores.tolist() == [1]
    assert found[torch.tensor([True, False, True])].scores.tolist() == [0, 1]
    assert found[1:].scores.tolist() == [0.5, 1]
    assert len(found[torch.zeros(0, dtype=torch.int64)]) == 0


def test_an_int_beyond_the_end_is_an_index_error():
    with pytest.raises(IndexError):
        record_of_tensors()[3]


def test_joining_appends_every_field():
    joined = Instances.cat([record(2), record(3)])
    assert len(joined) == 5
    assert joined.names[2] == "object 0"
    assert joined.pred_boxes.tensor.shape == (5, 4)


def test_records_of_different_image_sizes_are_not_joined():
    with pytest.raises(AssertionError):
        Instances.cat([record(), Instances((1, 1), scores=torch.zeros(1))])


def test_moving_to_a_device_leaves_plain_lists_alone():
    found = record().to("cpu")
    assert found.names == ["object 0", "object 1", "object 2"]
    assert found.pred_boxes.device.type == "cpu"


def test_a_record_survives_copying_and_pickling():
    found = record()
    found.masks = PolygonMasks([[torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0, 1.0])] for _ in range(3)])
    for twin in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert twin.image_size == (20, 30)
        assert torch.equal(twin.scores, found.scores)
        assert len(twin.masks) == 3


def test_iterating_is_refused():
    with pytest.raises(NotImplementedError):
        iter(record())
