"""Anchors, box offsets, matching, sampling, pooling and scaling of results."""

import math

import pytest
import torch
from detectron2.layers import ROIAlign
from detectron2.modeling import detector_postprocess
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, Instances

# anchors


def test_anchors_have_their_size_ratio_and_centre():
    generator = DefaultAnchorGenerator(sizes=[[32.0]], aspect_ratios=[[0.5, 2.0]], strides=[8], offset=0.5)
    [boxes] = generator([torch.zeros(1, 1, 2, 3)])
    assert len(boxes) == 2 * 3 * 2
    torch.testing.assert_close(boxes.area(), torch.full((12,), 32.0**2))
    width, height = (boxes.tensor[:, 2:] - boxes.tensor[:, :2]).unbind(1)
    torch.testing.assert_close(height / width, torch.tensor([0.5, 2.0]).repeat(6))
    centres = torch.tensor([[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]], dtype=torch.float32)
    torch.testing.assert_close(boxes.get_centers()[::2], centres)


def test_anchors_of_several_sizes_come_size_by_size():
    generator = DefaultAnchorGenerator(sizes=[[8, 16]], aspect_ratios=[[1.0, 4.0]], strides=[4, 8], offset=0.0)
    first, second = generator([torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)])
    assert first.area().tolist() == second.area().tolist() == [64, 64, 256, 256]
    assert generator.num_anchors == generator.num_cell_anchors == [4, 4]
    assert generator.box_dim == 4


def test_anchors_are_not_saved():
    generator = DefaultAnchorGenerator(sizes=[[8], [16]], aspect_ratios=[[1.0]], strides=[4, 8])
    assert not generator.state_dict()
    assert [name for name, _ in generator.named_buffers()] == ["cell_anchors.0", "cell_anchors.1"]


# offsets


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_applying_the_offsets_between_two_boxes_gives_the_second(weights):
    source = torch.tensor([[0.0, 0.0, 10.0, 20.0], [5.0, 5.0, 6.0, 9.0]])
    target = torch.tensor([[1.0, -2.0, 14.0, 12.0], [0.0, 5.0, 9.0, 30.0]])
    coder = Box2BoxTransform(weights)
    torch.testing.assert_close(coder.apply_deltas(coder.get_deltas(source, target), source), target)


def test_offsets_by_hand():
    deltas = Box2BoxTransform((1.0, 1.0, 1.0, 1.0)).get_deltas(
        torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([[5.0, 0.0, 25.0, 5.0]])
    )
    torch.testing.assert_close(deltas, torch.tensor([[1.0, -0.25, math.log(2), math.log(0.5)]]))


def test_growth_is_limited():
    grown = Box2BoxTransform((1.0, 1.0, 1.0, 1.0)).apply_deltas(
        torch.tensor([[0.0, 0.0, 50.0, 0.0]]), torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    )
    assert (grown[0, 2] - grown[0, 0]).item() == pytest.approx(1000, rel=1e-5)


def test_several_offsets_a_box_are_applied_to_the_same_box():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 9.0, 11.0]])
    deltas = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    coder = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    each = [coder.apply_deltas(part, boxes) for part in deltas.split(4, dim=1)]
    torch.testing.assert_close(coder.apply_deltas(deltas, boxes), torch.cat(each, dim=1))
    assert coder.apply_deltas(deltas[:0], boxes[:0]).shape == (0, 12)


def test_boxes_are_decoded_in_float32():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    found = Box2BoxTransform((1.0, 1.0, 1.0, 1.0)).apply_deltas(torch.zeros(1, 4, dtype=torch.float16), boxes)
    assert found.dtype == torch.float32


def test_a_source_without_width_is_refused():
    with pytest.raises(AssertionError):
        Box2BoxTransform((1.0, 1.0, 1.0, 1.0)).get_deltas(torch.zeros(1, 4), torch.ones(1, 4))


# matching

OVERLAPS = torch.tensor([[0.1, 0.4, 0.7, 0.2, 0.0], [0.3, 0.1, 0.2, 0.2, 0.25]])


def test_labels_follow_the_thresholds():
    matches, labels = Matcher([0.3, 0.7], [0, -1, 1])(OVERLAPS)
    assert matches.tolist() == [1, 0, 0, 0, 1]
    assert labels.tolist() == [-1, -1, 1, 0, 0]
    assert (matches.dtype, labels.dtype) == (torch.int64, torch.int8)


def test_with_low_quality_matches_every_ground_truth_keeps_its_best_boxes():
    _, labels = Matcher([0.5], [0, 1], allow_low_quality_matches=True)(OVERLAPS)
    assert labels.tolist() == [1, 0, 1, 0, 0]
    ties = torch.tensor([[0.2, 0.2, 0.1]])
    assert Matcher([0.5], [0, 1], allow_low_quality_matches=True)(ties)[1].tolist() == [1, 1, 0]


def test_without_ground_truth_all_boxes_take_the_first_label():
    matches, labels = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)(torch.zeros(0, 3))
    assert matches.tolist() == [0, 0, 0]
    assert labels.tolist() == [0, 0, 0]


def test_no_boxes_give_no_labels():
    matches, labels = Matcher([0.5], [0, 1])(torch.zeros(3, 0))
    assert matches.shape == labels.shape == (0,)


@pytest.mark.parametrize(
    ("thresholds", "labels"), [([0.7, 0.3], [0, -1, 1]), ([0.5], [0, 1, 1]), ([0.5], [0, 2]), ([0.0], [0, 1])]
)
def test_a_matcher_refuses_thresholds_and_labels_that_do_not_fit(thresholds, labels):
    with pytest.raises(AssertionError):
        Matcher(thresholds, labels)


# sampling


@pytest.mark.parametrize(
    ("num_positive", "num_negative", "drawn"), [(50, 100, (8, 24)), (3, 100, (3, 29)), (50, 4, (8, 4)), (0, 0, (0, 0))]
)
def test_positives_are_limited_and_negatives_fill_up(num_positive, num_negative, drawn):
    labels = torch.tensor([7] * num_positive + [9] * num_negative + [-1] * 20)
    positive, negative = subsample_labels(labels, 32, 0.25, bg_label=9)
    assert (len(positive), len(negative)) == drawn
    assert (labels[positive] == 7).all()
    assert (labels[negative] == 9).all()
    assert len(torch.cat((positive, negative)).unique()) == sum(drawn)


def test_a_seed_fixes_the_sample_and_another_changes_it():
    labels = torch.arange(1000) % 2

    def sample(seed: int) -> list[int]:
        torch.manual_seed(seed)
        return torch.cat(subsample_labels(labels, 64, 0.5, 0)).tolist()

    assert sample(3) == sample(3)
    assert sample(3) != sample(4)


# pooling


def test_the_level_goes_up_one_for_each_doubling_of_the_side():
    sides = torch.tensor([0.0, 10.0, 111.9, 112.0, 223.9, 224.0, 448.0, 5000.0])
    boxes = Boxes(torch.stack((torch.zeros(8), torch.zeros(8), sides, sides), dim=1))
    assert assign_boxes_to_levels([boxes], 2, 5, 224, 4).tolist() == [0, 0, 0, 1, 1, 2, 3, 3]


def pyramid_maps() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 512 // stride, 512 // stride, generator=generator) for stride in (4, 8, 16, 32)]


def boxes_of_all_sizes() -> list[Boxes]:
    sides = torch.tensor([20.0, 460.0, 130.0, 250.0, 30.0])
    boxes = torch.stack((0 * sides + 4, 0 * sides + 6, sides + 4, sides + 6), dim=1)
    return [Boxes(boxes), Boxes(boxes.flip(0)[:3])]


def test_each_box_is_pooled_from_its_own_level_in_the_order_given():
    maps, boxes = pyramid_maps(), boxes_of_all_sizes()
    pooled = ROIPooler(3, [1 / 4, 1 / 8, 1 / 16, 1 / 32], 0, "ROIAlignV2")(maps, boxes)
    levels = assign_boxes_to_levels(boxes, 2, 5, 224, 4).tolist()
    assert len(set(levels)) == 4
    rows = [(image, box) for image, of_image in enumerate(boxes) for box in of_image]
    for found, level, (image, box) in zip(pooled, levels, rows, strict=True):
        roi = torch.cat((torch.tensor([float(image)]), box))[None]
        torch.testing.assert_close(found, ROIAlign(3, 1 / 2 ** (level + 2), 0, aligned=True)(maps[level], roi)[0])


def test_gradients_reach_every_level_that_has_a_box():
    maps = [level.requires_grad_() for level in pyramid_maps()]
    ROIPooler(3, [1 / 4, 1 / 8, 1 / 16, 1 / 32], 0, "ROIAlignV2")(maps, boxes_of_all_sizes()).sum().backward()
    assert all(level.grad.abs().sum() > 0 for level in maps)


def test_a_pooler_of_one_level_needs_no_assignment():
    maps, boxes = pyramid_maps()[:1], boxes_of_all_sizes()
    assert ROIPooler((2, 5), [1 / 4], 0, "ROIAlign")(maps, boxes).shape == (8, 3, 2, 5)


@pytest.mark.parametrize("boxes", [[Boxes([]), Boxes([])], [Boxes([]), Boxes([[0, 0, 9, 9]])]])
def test_images_without_boxes_contribute_no_rows(boxes):
    pooled = ROIPooler(7, [1 / 4, 1 / 8, 1 / 16, 1 / 32], 0, "ROIAlignV2")(pyramid_maps(), boxes)
    assert pooled.shape == (sum(map(len, boxes)), 3, 7, 7)


@pytest.mark.parametrize("scales", [[1 / 4, 1 / 16], [0.3]])
def test_scales_must_be_neighbouring_powers_of_two(scales):
    with pytest.raises(AssertionError):
        ROIPooler(7, scales, 0, "ROIAlignV2")


# results


def detections() -> Instances:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 5.0], [4.0, 4.0, 4.0, 8.0], [15.0, 5.0, 30.0, 20.0]])
    found = Instances((10, 20), pred_boxes=Boxes(boxes), scores=torch.tensor([0.9, 0.8, 0.7]))
    found.pred_masks = torch.ones(3, 1, 28, 28)
    return found


def test_results_are_scaled_clipped_and_freed_of_empty_boxes():
    found = detector_postprocess(detections(), 20, 60)
    assert found.image_size == (20, 60)
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 30, 10], [45, 10, 60, 20]]


def test_masks_of_results_are_pasted_in_the_final_size():
    masks = detector_postprocess(detections(), 20, 60).pred_masks
    assert masks.shape == (2, 20, 60)
    assert masks.dtype == torch.bool
    assert masks[0, :10, :30].all()
    assert masks[0].sum() == 300


def test_no_detections_stay_none():
    found = detector_postprocess(detections()[torch.zeros(3, dtype=torch.bool)], 7, 8)
    assert len(found) == 0
    assert found.pred_masks.shape == (0, 7, 8)
