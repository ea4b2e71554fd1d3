"""Boxes, their overlaps, and box modes."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, pairwise_iou


def some_boxes() -> Boxes:
    return Boxes(torch.tensor([[0.0, 0.0, 4.0, 2.0], [1.0, 1.0, 5.0, 9.0], [3.0, 3.0, 3.0, 8.0]]))


def test_numbers_become_float32():
    assert Boxes([[1, 2, 3, 4]]).tensor.dtype == torch.float32
    assert Boxes(torch.ones(2, 4, dtype=torch.float64)).tensor.dtype == torch.float32


def test_no_boxes_have_four_columns():
    assert Boxes(torch.empty(0)).tensor.shape == (0, 4)
    assert Boxes([]).tensor.shape == (0, 4)
    assert Boxes.cat([]).tensor.shape == (0, 4)


@pytest.mark.parametrize("shape", [(4,), (2, 5), (2, 2, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(AssertionError):
        Boxes(torch.zeros(shape))


def test_area_is_width_times_height():
    assert some_boxes().area().tolist() == [8, 32, 0]


def test_clipping_moves_corners_into_the_image():
    boxes = Boxes(torch.tensor([[-3.0, -1.0, 20.0, 30.0], [12.0, 2.0, 14.0, 3.0]]))
    boxes.clip((8, 10))
    assert boxes.tensor.tolist() == [[0, 0, 10, 8], [10, 2, 10, 3]]


def test_clipping_refuses_numbers_that_are_not_finite():
    with pytest.raises(AssertionError):
        Boxes(torch.tensor([[0.0, 0.0, float("nan"), 1.0]])).clip((8, 8))


def test_a_box_is_empty_unless_both_sides_exceed_the_threshold():
    assert some_boxes().nonempty().tolist() == [True, True, False]
    assert some_boxes().nonempty(threshold=2.0).tolist() == [False, True, False]


def test_a_box_is_inside_when_it_leaves_the_image_by_less_than_the_threshold():
    boxes = Boxes(torch.tensor([[0.0, 0.0, 9.0, 7.0], [0.0, 0.0, 10.0, 7.0], [-2.0, 0.0, 5.0, 5.0]]))
    assert boxes.inside_box((8, 10)).tolist() == [True, False, False]
    assert boxes.inside_box((8, 10), 2).tolist() == [True, True, True]


def test_scaling_changes_both_axes_in_place():
    boxes = some_boxes()
    boxes.scale(2.0, 0.5)
    assert boxes.tensor[1].tolist() == [2, 0.5, 10, 4.5]


def test_centres_are_halfway_between_corners():
    assert some_boxes().get_centers().tolist() == [[2, 1], [3, 5], [3, 5.5]]


def test_indexing_always_gives_boxes():
    boxes = some_boxes()
    assert boxes[1].tensor.shape == (1, 4)
    assert boxes[:2].tensor.shape == (2, 4)
    assert torch.equal(boxes[torch.tensor([2, 0])].tensor, boxes.tensor[[2, 0]])
    assert torch.equal(boxes[torch.tensor([True, False, True])].tensor, boxes.tensor[[0, 2]])
    assert len(boxes[torch.zeros(3, dtype=torch.bool)]) == 0


def test_a_clone_shares_no_memory():
    boxes = some_boxes()
    boxes.clone().scale(5.0, 5.0)
    assert torch.equal(boxes.tensor, some_boxes().tensor)


def test_iterating_gives_one_tensor_a_box():
    assert [box.tolist() for box in some_boxes()] == some_boxes().tensor.tolist()


def test_overlap_by_hand():
    # the first two share [1, 4] x [1, 2] = 3 of 8 + 32 - 3
    overlaps = pairwise_iou(some_boxes(), some_boxes())
    assert overlaps[0, 1].item() == pytest.approx(3 / 37)
    assert torch.equal(overlaps, overlaps.T)
    assert overlaps.diagonal().tolist() == [1, 1, 0]


def test_overlap_with_no_boxes_is_empty():
    assert pairwise_iou(Boxes([]), some_boxes()).shape == (0, 3)
    assert pairwise_iou(some_boxes(), Boxes([])).shape == (3, 0)


@pytest.mark.parametrize("kind", [list, tuple])
def test_converting_there_and_back_keeps_box_and_type(kind):
    box = kind([2.0, 3.0, 5.0, 9.0])
    size = BoxMode.convert(box, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    assert type(size) is type(box)
    assert size == kind([2, 3, 3, 6])
    assert BoxMode.convert(size, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) == box


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_converting_many_boxes_leaves_the_input_alone(kind):
    boxes = kind([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 2.0, 2.0]])
    found = BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    assert found.tolist() == [[1, 2, 4, 6], [0, 0, 2, 2]]
    assert type(found) is type(boxes)
    assert boxes[0].tolist() == [1, 2, 3, 4]


def test_modes_keep_the_numbers_that_files_hold():
    assert (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS) == (0, 1)
    assert BoxMode(1) is BoxMode.XYWH_ABS


def test_a_conversion_that_is_not_offered_is_an_error():
    with pytest.raises((NotImplementedError, AssertionError)):
        BoxMode.convert([0.1, 0.1, 0.2, 0.2], BoxMode.XYXY_REL, BoxMode.XYXY_ABS)
