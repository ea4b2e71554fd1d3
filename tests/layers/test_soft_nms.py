"""The parallel soft-NMS against a plain loop in float64, and the corner cases of the published kernel."""

import math

import pytest
import torch
from torch import Tensor

import eva02_det.layers.soft_nms as module
from eva02_det.layers.soft_nms import METHODS, soft_nms


def one_after_the_other(
    boxes: Tensor, scores: Tensor, classes: Tensor, method: str, *, iou_threshold: float = 0.6, min_score: float = 1e-3
) -> list[tuple[int, float]]:
    """The definition: pick the best, lower the rest one at a time, drop, repeat."""
    box, score, label = boxes.double().tolist(), scores.double().tolist(), classes.tolist()
    waiting, picked = list(range(len(score))), []
    while waiting:
        best = max(waiting, key=lambda row: (score[row], -row))
        picked.append((best, score[best]))
        waiting.remove(best)
        for row in waiting:
            if label[row] == label[best]:
                score[row] *= factor(overlap(box[best], box[row]), method, iou_threshold)
        waiting = [row for row in waiting if score[row] >= min_score]
    return picked


def overlap(one: list[float], other: list[float]) -> float:
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    area = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return width * height / (area - width * height) if area else 0.0


def factor(iou: float, method: str, iou_threshold: float, sigma: float = 0.5) -> float:
    if method == "gaussian":
        return math.exp(-(iou**2) / sigma)
    if iou < iou_threshold:
        return 1.0
    return 1 - iou if method == "linear" else 0.0


def crowded_candidates(number: int, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes that jitter around a few objects per class, so that long chains of overlaps arise."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(classes, 3, 2, generator=generator) * 400
    label = torch.randint(classes, (number,), generator=generator)
    middle = centre[label, torch.randint(3, (number,), generator=generator)] + torch.randn(number, 2, generator=generator) * 6
    half = 30 + torch.randn(number, 2, generator=generator) * 5
    return torch.cat([middle - half, middle + half], 1), torch.rand(number, generator=generator), label


def assert_same(found: tuple[Tensor, Tensor], expected: list[tuple[int, float]]) -> None:
    assert found[0].tolist() == [row for row, _ in expected]
    torch.testing.assert_close(found[1], torch.tensor([score for _, score in expected]).to(found[1]), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("number", "classes"), [(1, 1), (60, 1), (200, 4), (300, 90)])
def test_rounds_of_local_winners_equal_one_pick_after_the_other(method: str, number: int, classes: int) -> None:
    for seed in range(4):
        boxes, scores, labels = crowded_candidates(number, classes, seed)
        assert_same(soft_nms(boxes, scores, labels, method=method), one_after_the_other(boxes, scores, labels, method))


@pytest.mark.parametrize("iou_threshold", [0.05, 0.3, 0.9, 1.0])
def test_every_threshold_gives_what_the_plain_loop_gives(iou_threshold: float) -> None:
    boxes, scores, labels = crowded_candidates(150, 3, seed=11)
    expected = one_after_the_other(boxes, scores, labels, "linear", iou_threshold=iou_threshold)
    assert_same(soft_nms(boxes, scores, labels, iou_threshold=iou_threshold), expected)


def test_work_in_small_portions_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = crowded_candidates(250, 5, seed=3)
    whole = soft_nms(*candidates)
    for pairs in (1, 7, 100):
        monkeypatch.setitem(module.PAIRS_AT_ONCE, "cpu", pairs)
        assert all(torch.equal(a, b) for a, b in zip(soft_nms(*candidates), whole))


def test_classes_never_meet_even_at_the_far_end_of_lvis() -> None:
    boxes, scores, _ = crowded_candidates(40, 1, seed=5)
    boxes = boxes / 60 + 1500  # 1 px wide at the far corner, where a coordinate offset would round to 1/8 px
    many = torch.arange(1203).repeat_interleave(40)
    rows, decayed = soft_nms(boxes.repeat(1203, 1), scores.repeat(1203), many)
    alone_rows, alone = soft_nms(boxes, scores)
    for label in (0, 600, 1202):
        of_class = many[rows] == label
        assert torch.equal(rows[of_class] - label * 40, alone_rows)
        torch.testing.assert_close(decayed[of_class], alone)


def test_without_classes_all_boxes_meet() -> None:
    boxes, scores, _ = crowded_candidates(80, 6, seed=8)
    assert_same(soft_nms(boxes, scores), one_after_the_other(boxes, scores, torch.zeros(80), "linear"))


def test_output_is_sorted_by_final_score_and_ties_keep_the_lower_row_first() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 0, 60, 10], [0, 50, 10, 60], [0, 0, 10, 9]])
    rows, scores = soft_nms(boxes, torch.tensor([0.5, 0.7, 0.5, 0.9]))
    assert rows.tolist() == [3, 1, 2, 0]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.7, 0.5, 0.05]))


def test_the_lower_row_of_two_equals_wins_and_removes_its_duplicate() -> None:
    box = torch.tensor([[2.0, 3, 40, 50]]).repeat(3, 1)
    rows, scores = soft_nms(box, torch.tensor([0.4, 0.4, 0.4]))
    assert rows.tolist() == [0]
    assert scores.tolist() == pytest.approx([0.4])


def test_a_lone_best_below_the_minimum_survives_but_only_one_in_all_classes() -> None:
    boxes, labels = torch.tensor([[0.0, 0, 5, 5], [50, 50, 60, 60], [80, 80, 90, 90]]), torch.tensor([0, 1, 2])
    rows, scores = soft_nms(boxes, torch.tensor([2e-4, 9e-4, 9e-4]), labels)
    assert rows.tolist() == [1]
    assert scores.tolist() == pytest.approx([9e-4])
    assert soft_nms(boxes, torch.tensor([2e-4, 0.5, 9e-4]), labels)[0].tolist() == [1]


def test_candidates_without_area_are_left_alone() -> None:
    boxes = torch.tensor([[5.0, 5, 5, 9], [5, 5, 5, 9], [0, 0, 20, 20]])
    for method in METHODS:
        rows, scores = soft_nms(boxes, torch.tensor([0.3, 0.2, 0.6]), method=method)
        assert rows.tolist() == [2, 0, 1]
        torch.testing.assert_close(scores, torch.tensor([0.6, 0.3, 0.2]))


def test_a_score_exactly_at_the_minimum_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [30, 0, 40, 10], [60, 0, 70, 10]])
    below = torch.nextafter(torch.tensor(1e-3), torch.tensor(0.0))
    assert soft_nms(boxes, torch.stack([torch.tensor(0.9), torch.tensor(1e-3), below]))[0].tolist() == [0, 1]


def test_nothing_in_gives_nothing_out() -> None:
    rows, scores = soft_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert rows.shape == scores.shape == (0,)


def test_half_precision_candidates_keep_their_type_but_decay_in_float32() -> None:
    boxes, scores, labels = crowded_candidates(50, 2, seed=9)
    rows, decayed = soft_nms(boxes.half(), scores.half(), labels)
    full_rows, full = soft_nms(boxes.half().float(), scores.half().float(), labels)
    assert decayed.dtype == torch.float16
    assert torch.equal(rows, full_rows)
    torch.testing.assert_close(decayed, full.half())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_gives_what_the_cpu_gives(method: str) -> None:
    candidates = crowded_candidates(2000, 20, seed=13)
    rows, scores = soft_nms(*(part.cuda() for part in candidates), method=method)
    expected_rows, expected = soft_nms(*candidates, method=method)
    torch.testing.assert_close(scores.cpu(), expected, rtol=1e-5, atol=1e-7)
    assert (rows.cpu() == expected_rows).float().mean() > 0.999  # the last bit of a product may swap two equals


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cubic.*linear, gaussian, naive"):
        soft_nms(torch.zeros(2, 4), torch.ones(2), method="cubic")
