"""Box selectors: order of the steps, limits, and options that are refused."""

import dataclasses

import pytest
import torch
from detectron2.layers import batched_nms
from torch import Tensor

from eva02_det.modeling.selectors import HardNms, SoftNms, rank_in_class
from eva02_det.utils.errors import UserError

SIZE = (120, 160)
LARGE = (400, 400)  # holds every box


def proposals(number: int, classes: int, seed: int = 0, per_class_boxes: bool = False) -> tuple[Tensor, Tensor]:
    """Crowded boxes [R, 4] or [R, 4K], some beyond the image, and softmax scores [R, K+1]."""
    generator = torch.Generator().manual_seed(seed)
    copies = classes if per_class_boxes else 1
    middle = torch.rand(number, 1, 2, generator=generator) * 150 + torch.randn(number, copies, 2, generator=generator) * 3
    half = 25 + torch.randn(number, copies, 2, generator=generator) * 3
    boxes = torch.cat([middle - half, middle + half], -1).flatten(1)
    return boxes, (torch.randn(number, classes + 1, generator=generator) * 2).softmax(1)


def test_soft_nms_of_class_specific_boxes_takes_the_box_of_the_class() -> None:
    boxes, scores = proposals(20, 3, per_class_boxes=True)
    found, rows = SoftNms()(boxes, scores, SIZE)
    for box, label, row in zip(found.pred_boxes.tensor, found.pred_classes, rows):
        own = boxes[row, 4 * label : 4 * label + 4]
        assert torch.equal(box, torch.minimum(own.clamp(min=0), torch.tensor([160.0, 120, 160, 120])))


def test_repeating_a_shared_box_for_every_class_changes_nothing() -> None:
    boxes, scores = proposals(30, 4)
    shared, shared_rows = SoftNms()(boxes, scores, SIZE)
    repeated, repeated_rows = SoftNms()(boxes.repeat(1, 4), scores, SIZE)
    assert torch.equal(shared.scores, repeated.scores)
    assert torch.equal(shared_rows, repeated_rows)


def test_each_class_is_treated_as_if_it_were_alone() -> None:
    boxes, scores = proposals(40, 5)
    found, _ = SoftNms()(boxes, scores, SIZE)
    for label in range(5):
        alone, _ = SoftNms()(boxes, torch.stack([scores[:, label], scores[:, -1]], 1), SIZE)
        torch.testing.assert_close(found.scores[found.pred_classes == label], alone.scores)


def test_the_naive_method_is_hard_nms() -> None:
    boxes, scores = proposals(60, 3)
    soft, soft_rows = SoftNms(method="naive", iou_threshold=0.5, score_threshold=0.05)(boxes, scores, SIZE)
    hard, hard_rows = HardNms(iou_threshold=0.5, score_threshold=0.05, max_detections=10_000)(boxes, scores, SIZE)
    assert torch.equal(soft_rows, hard_rows)
    torch.testing.assert_close(soft.pred_boxes.tensor, hard.pred_boxes.tensor)
    torch.testing.assert_close(soft.scores, hard.scores)


def test_hard_nms_keeps_the_best_of_what_batched_nms_keeps() -> None:
    boxes, scores = proposals(50, 2)
    found, rows = HardNms(max_detections=9)(boxes, scores, (1000, 1000))
    row, label = (scores[:, :-1] > 0.05).nonzero(as_tuple=True)
    clipped = boxes.clamp(0, 1000)
    kept = batched_nms(clipped[row], scores[row, label], label, 0.5)[:9]
    assert torch.equal(rows, row[kept])
    assert torch.equal(found.pred_classes, label[kept])


def test_a_score_at_the_threshold_is_dropped_and_one_above_is_kept() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 70, 70]])
    found, rows = SoftNms(score_threshold=0.25)(boxes, torch.tensor([[0.25, 0.75], [0.26, 0.74]]), SIZE)
    assert rows.tolist() == [1]
    assert found.image_size == SIZE


@pytest.mark.parametrize("select", [HardNms(), SoftNms(), SoftNms(max_per_class=2, max_detections=3)])
def test_rows_that_are_not_finite_are_dropped_and_not_counted(select: HardNms | SoftNms) -> None:
    boxes = torch.tensor([[torch.nan, 0, 10, 10], [0, 0, 10, 10], [0, 0, torch.inf, 10], [50, 50, 70, 70]])
    scores = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2], [0.6, 0.4]])
    found, rows = select(boxes, scores, SIZE)
    assert rows.tolist() == [1, 0]
    assert found.pred_boxes.tensor.tolist() == [[50, 50, 70, 70], [0, 0, 10, 10]]


@pytest.mark.parametrize("select", [HardNms(), SoftNms(), SoftNms(max_per_class=1)])
@pytest.mark.parametrize("number", [0, 3])
def test_nothing_above_the_threshold_gives_an_empty_answer(select: HardNms | SoftNms, number: int) -> None:
    select = dataclasses.replace(select, score_threshold=0.9)
    found, rows = select(torch.rand(number, 4), torch.full((number, 3), 0.3), SIZE)
    assert len(found) == len(rows) == 0
    assert found.pred_boxes.tensor.shape == (0, 4)


def test_limits_take_the_best_and_change_none_of_them() -> None:
    boxes, scores = proposals(80, 4)
    everything, rows = SoftNms()(boxes, scores, LARGE)
    best, best_rows = SoftNms(max_detections=17)(boxes, scores, LARGE)
    assert torch.equal(best.scores, everything.scores[:17])
    assert torch.equal(best_rows, rows[:17])
    five_each, _ = SoftNms(max_per_class=5)(boxes, scores, LARGE)
    for label in range(4):
        expected = everything.scores[everything.pred_classes == label][:5]
        assert torch.equal(five_each.scores[five_each.pred_classes == label], expected)
    both, _ = SoftNms(max_per_class=5, max_detections=17)(boxes, scores, LARGE)
    assert torch.equal(both.scores, five_each.scores[:17])


def test_a_box_without_area_takes_no_place_of_its_class() -> None:
    boxes, scores = proposals(80, 2)
    found, _ = SoftNms(max_per_class=20)(boxes, scores, SIZE)
    everything, _ = SoftNms()(boxes, scores, SIZE)
    assert not everything.pred_boxes.nonempty().all(), "the boxes must reach beyond the image"
    for label in range(2):
        solid = everything[(everything.pred_classes == label) & everything.pred_boxes.nonempty()][:20]
        mine = found[(found.pred_classes == label) & found.pred_boxes.nonempty()]
        assert len(mine) == 20
        assert torch.equal(mine.pred_boxes.tensor, solid.pred_boxes.tensor)


def test_rank_in_class_counts_the_earlier_ones_of_the_same_class() -> None:
    assert rank_in_class(torch.tensor([3, 1, 3, 3, 0, 1])).tolist() == [0, 0, 1, 2, 0, 1]
    assert rank_in_class(torch.zeros(0, dtype=torch.long)).tolist() == []
    counted = torch.tensor([True, False, False, True, True, True])
    assert rank_in_class(torch.tensor([3, 1, 3, 3, 0, 1]), counted).tolist() == [0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("method", "cubic"),
        ("iou_threshold", 0.0),
        ("iou_threshold", 1.5),
        ("sigma", 0.0),
        ("min_score", -1e-3),
        ("score_threshold", 1.0),
        ("max_per_class", 0),
        ("max_detections", -1),
    ],
)
def test_an_option_of_soft_nms_out_of_range_is_named(option: str, value: object) -> None:
    with pytest.raises(UserError, match=option):
        SoftNms(**{option: value})


@pytest.mark.parametrize(("option", "value"), [("iou_threshold", -0.1), ("score_threshold", 1.2), ("max_detections", 0)])
def test_an_option_of_hard_nms_out_of_range_is_named(option: str, value: float) -> None:
    with pytest.raises(UserError, match=option):
        HardNms(**{option: value})
