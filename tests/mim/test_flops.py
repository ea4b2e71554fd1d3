"""The formula against torch's own count of the operations that run, and against published figures."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from eva02_mim.flops import EVA_CLIP_G, TABLE_5, VitShape, report, step_macs, student_shape
from eva02_mim.sizes import student_of_size
from tests.mim.small_student import loss_of, small_batch, small_student

VARIANTS: list[dict[str, Any]] = [{}, {"sub_ln": False}, {"feed_forward": "gelu"}]


def counted(run: Any) -> int:
    """Multiply-accumulates of all products that run."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_formula_counts_what_runs_in_a_forward_pass(options: dict[str, Any]) -> None:
    student, (images, hidden, _) = small_student(attention="math", **options), small_batch()
    expected = counted(lambda: student(images, hidden))
    assert 2 * VitShape.of(student).forward_macs(16, 7) == expected
    everything = counted(lambda: student.predict_all(images, torch.zeros(2, 16, dtype=torch.bool)))
    assert 2 * VitShape.of(student).forward_macs(16) == everything


def test_a_backward_pass_costs_two_forward_ones_but_for_the_gradient_of_the_image() -> None:
    student, batch = small_student(attention="math"), small_batch()
    embedding = 16 * 3 * 14**2 * 32
    once = counted(lambda: loss_of(student, batch).backward())
    assert 2 * (step_macs(VitShape.of(student), None, patches=16, slots=7) - embedding) == once


@pytest.mark.parametrize(("size", "shown"), [("Ti", "1.25"), ("S", "4.58"), ("B", "17.5"), ("L", "61.5")])
def test_sizes_cost_what_table_5_says(size: str, shown: str) -> None:
    assert f"{student_shape(size).forward_macs(196) / 1e9:.3g}" == shown == f"{TABLE_5[size] / 1e9:.3g}"
    with torch.device("meta"):
        assert VitShape.of(student_of_size(size)) == student_shape(size, head_width=1024)


@pytest.mark.parametrize(("size", "published"), [("Ti", 5.2), ("S", 18.5), ("B", 69.7), ("L", 243)])
def test_a_plain_step_costs_what_is_published_and_ours_costs_less(size: str, published: float) -> None:
    shape = student_shape(size)
    head = 3 * 105 * shape.width * 1024  # the released code has all of the last block, but the head on hidden patches only
    plain = step_macs(shape, None, slots=None) + head
    assert plain / 1e9 == pytest.approx(published, rel=0.01)
    assert step_macs(student_shape(size, 1024), None) < plain


def test_the_teacher_costs_267_billion() -> None:
    assert EVA_CLIP_G.forward_macs(256) / 1e9 == pytest.approx(267, abs=0.5)


def test_the_report_shows_all_sizes_beside_the_table() -> None:
    assert [line.split()[:3] for line in report().splitlines()[1:]] == [
        ["Ti", "1.25", "1.25"],
        ["S", "4.58", "4.58"],
        ["B", "17.5", "17.5"],
        ["L", "61.5", "61.5"],
    ]
