"""Mask confidence: values worked out by hand."""

import torch

from eva02_det.layers.mask_scores import mask_confidence


def test_confidence_is_the_mean_of_what_lies_strictly_above_the_threshold() -> None:
    masks = torch.tensor([[[[0.9, 0.5], [0.7, 0.1]]]])
    torch.testing.assert_close(mask_confidence(masks), torch.tensor([0.8]))
    torch.testing.assert_close(mask_confidence(masks, threshold=0.05), torch.tensor([0.55]))


def test_a_mask_with_nothing_above_the_threshold_scores_zero() -> None:
    masks = torch.stack([torch.full((1, 4, 4), 0.5), torch.full((1, 4, 4), 0.2)])
    assert mask_confidence(masks).tolist() == [0, 0]


def test_other_confidences_lie_between_threshold_and_one() -> None:
    confidence = mask_confidence(torch.rand(100, 1, 28, 28, generator=torch.Generator().manual_seed(0)), threshold=0.3)
    assert confidence.shape == (100,)
    assert ((confidence > 0.3) & (confidence <= 1)).all()


def test_no_masks_give_no_confidences() -> None:
    assert mask_confidence(torch.zeros(0, 1, 28, 28)).shape == (0,)


def test_the_channel_axis_may_be_absent() -> None:
    masks = torch.rand(5, 1, 7, 7, generator=torch.Generator().manual_seed(1))
    assert torch.equal(mask_confidence(masks), mask_confidence(masks[:, 0]))
