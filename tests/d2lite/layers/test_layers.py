"""Convolution, norms, NMS and RoIAlign."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, ROIAlign, ShapeSpec, batched_nms, cross_entropy, get_norm
from detectron2.layers.batch_norm import LayerNorm
from torch import nn


def test_a_convolution_is_followed_by_norm_and_activation():
    norm = LayerNorm(4)
    layer = Conv2d(3, 4, kernel_size=3, padding=1, bias=False, norm=norm, activation=F.relu)
    x = torch.randn(2, 3, 5, 6)
    torch.testing.assert_close(layer(x), norm(F.conv2d(x, layer.weight, padding=1)).relu())
    assert sorted(layer.state_dict()) == ["norm.bias", "norm.weight", "weight"]


def test_layer_norm_works_on_the_channels_of_each_position():
    norm = LayerNorm(8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 8, 3, 5) * 1e-3  # small, so that epsilon counts
    last = F.layer_norm(x.permute(0, 2, 3, 1), (8,), norm.weight, norm.bias, 1e-6)
    torch.testing.assert_close(norm(x), last.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-5)


def test_layer_norm_has_gradients_for_input_and_parameters():
    norm = LayerNorm(4).double()
    x = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))
    norm(x).square().sum().backward()
    assert all(p.grad is not None for p in norm.parameters())


def test_norms_are_chosen_by_name_or_factory():
    assert get_norm("", 8) is None
    assert get_norm(None, 8) is None
    assert isinstance(get_norm("LN", 8), LayerNorm)
    assert isinstance(get_norm(nn.BatchNorm2d, 8), nn.BatchNorm2d)
    assert get_norm("GN", 64).num_groups == 32


def test_an_unknown_norm_is_an_error():
    with pytest.raises(KeyError):
        get_norm("no such norm", 8)


def test_cross_entropy_of_no_rows_is_a_differentiable_zero():
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    logits, labels = torch.randn(6, 5), torch.randint(0, 5, (6,))
    torch.testing.assert_close(cross_entropy(logits, labels), F.cross_entropy(logits, labels))
    assert cross_entropy(logits, labels, reduction="none").shape == (6,)


def test_boxes_of_different_groups_do_not_suppress_each_other():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 10.0]])
    scores = torch.tensor([0.5, 0.9, 0.7])
    assert batched_nms(boxes, scores, torch.tensor([0, 0, 0]), 0.5).tolist() == [1]
    assert batched_nms(boxes, scores, torch.tensor([0, 0, 1]), 0.5).tolist() == [1, 2]
    assert batched_nms(boxes[:0], scores[:0], torch.zeros(0, dtype=torch.int64), 0.5).tolist() == []


def test_roi_align_of_a_linear_map_gives_the_values_at_cell_centres():
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)  # value = column index = x - 0.5
    pooled = ROIAlign((2, 4), 0.5, 2, aligned=True)(ramp, torch.tensor([[0.0, 8.0, 8.0, 24.0, 16.0]]))
    # columns 4..12 of the map in four cells: centres 5, 7, 9, 11
    torch.testing.assert_close(pooled[0, 0, 0], torch.tensor([4.5, 6.5, 8.5, 10.5]))


def test_without_alignment_the_pixels_are_half_a_cell_off():
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    roi = torch.tensor([[0.0, 4.0, 4.0, 12.0, 12.0]])
    difference = ROIAlign(2, 1.0, 2, aligned=False)(ramp, roi) - ROIAlign(2, 1.0, 2, aligned=True)(ramp, roi)
    torch.testing.assert_close(difference, torch.full((1, 1, 2, 2), 0.5))


def test_a_shape_compares_by_its_numbers():
    assert ShapeSpec(channels=3, stride=4) == ShapeSpec(3, None, None, 4)
    assert ShapeSpec(height=2) != ShapeSpec(width=2)
