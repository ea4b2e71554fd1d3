"""Pasting small masks into the image."""

import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Boxes
from torch import Tensor


def painted(probs: Tensor, box: list[float], shape: tuple[int, int], threshold: float = 0.5) -> Tensor:
    return paste_masks_in_image(probs[None], Boxes(torch.tensor([box])), shape, threshold)[0]


def test_a_full_mask_fills_its_box():
    found = painted(torch.ones(28, 28), [2.0, 3.0, 12.0, 9.0], (15, 20))
    expected = torch.zeros(15, 20, dtype=torch.bool)
    expected[3:9, 2:12] = True
    assert torch.equal(found, expected)


def test_a_mask_of_the_size_of_its_box_is_copied():
    probs = torch.rand(8, 8)
    found = painted(probs, [4.0, 2.0, 12.0, 10.0], (12, 16))
    assert torch.equal(found[2:10, 4:12], probs >= 0.5)
    assert found.sum() == (probs >= 0.5).sum()


def test_the_part_outside_the_image_is_cut_off():
    found = painted(torch.ones(4, 4), [-5.0, -5.0, 4.0, 3.0], (6, 6))
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[:3, :4] = True
    assert torch.equal(found, expected)


def test_probabilities_equal_to_the_threshold_count_as_inside():
    assert painted(torch.full((4, 4), 0.25), [0.0, 0.0, 4.0, 4.0], (4, 4), threshold=0.25).all()


def test_a_negative_threshold_returns_probabilities_in_255_steps():
    found = painted(torch.full((4, 4), 0.5), [0.0, 0.0, 4.0, 4.0], (4, 4), threshold=-1)
    assert found.dtype == torch.uint8
    assert (found == 127).all()


def test_each_mask_is_painted_into_its_own_image():
    probs = torch.stack((torch.ones(4, 4), torch.zeros(4, 4), torch.ones(4, 4)))
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 5.0, 5.0], [1.0, 1.0, 5.0, 5.0]])
    assert paste_masks_in_image(probs, boxes, (5, 5)).flatten(1).sum(dim=1).tolist() == [4, 0, 16]


def test_no_masks_give_an_empty_stack():
    assert paste_masks_in_image(torch.zeros(0, 28, 28), Boxes([]), (5, 6)).shape == (0, 5, 6)


def test_masks_must_be_square():
    with pytest.raises(AssertionError):
        paste_masks_in_image(torch.zeros(1, 4, 5), Boxes([[0, 0, 1, 1]]), (5, 6))
