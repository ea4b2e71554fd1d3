"""Maskness: which scores change, which stay, and in what order detections come out."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from eva02_det.modeling.rescorers import Maskness
from eva02_det.utils.errors import UserError


def detections() -> Instances:
    """Three detections in order of score; the first has a doubtful mask, the last none above one half."""
    masks = torch.stack([torch.full((1, 4, 4), level) for level in (0.6, 1.0, 0.4)])
    boxes = Boxes(torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]]))
    return Instances((9, 9), pred_boxes=boxes, scores=torch.tensor([0.9, 0.8, 0.7]), pred_masks=masks)


def test_mask_scores_get_a_field_of_their_own() -> None:
    rescored = Maskness()(detections())
    torch.testing.assert_close(rescored.mask_scores, torch.tensor([0.54, 0.8, 0.0]))
    torch.testing.assert_close(rescored.scores, torch.tensor([0.9, 0.8, 0.7]))


def test_calibrated_box_scores_come_in_descending_order_with_their_boxes() -> None:
    rescored = Maskness(applies_to="boxes_and_masks")(detections())
    torch.testing.assert_close(rescored.scores, torch.tensor([0.8, 0.54, 0.0]))
    assert torch.equal(rescored.scores, rescored.mask_scores)
    assert rescored.pred_boxes.tensor[:, 2].tolist() == [2, 1, 3]


@pytest.mark.parametrize("applies_to", ["masks", "boxes_and_masks"])
def test_the_detections_given_are_left_as_they_were(applies_to: str) -> None:
    given = detections()
    Maskness(applies_to=applies_to)(given)
    assert not given.has("mask_scores")
    assert torch.equal(given.scores, detections().scores)


def test_the_threshold_decides_which_pixels_count() -> None:
    torch.testing.assert_close(Maskness(threshold=0.3)(detections()).mask_scores, torch.tensor([0.54, 0.8, 0.28]))


@pytest.mark.parametrize("options", [{"threshold": 1.0}, {"threshold": -0.5}, {"applies_to": "boxes"}])
def test_an_option_out_of_range_is_refused(options: dict) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        Maskness(**options)
