"""The objective against other ways to write it."""

import pytest
import torch
from torch import Tensor

from eva02_mim.hidden import pack_hidden
from eva02_mim.loss import hidden_targets, hidden_token_loss

TARGETS = 16, 9  # patches, width


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Features of student and teacher for all patches, [4, 16, 9], and a mask of unequal counts."""
    torch.manual_seed(0)
    mask = torch.rand(4, 16) < torch.tensor([0.2, 0.4, 0.6, 0.8])[:, None]
    return torch.randn(4, *TARGETS, dtype=dtype), torch.randn(4, *TARGETS, dtype=dtype), mask


def packed_loss(student: Tensor, teacher: Tensor, mask: Tensor, **options: Tensor) -> Tensor:
    hidden = pack_hidden(mask, 15)
    predictions, targets = (hidden_targets(features, hidden.index) for features in (student, teacher))
    return hidden_token_loss(predictions, targets, hidden.weight, **options)


def test_it_is_minus_the_mean_of_the_normalised_products_over_all_hidden_tokens() -> None:
    student, teacher, mask = batch()
    one, other = (features[mask] / features[mask].norm(dim=-1, keepdim=True) for features in (student, teacher))
    torch.testing.assert_close(packed_loss(student, teacher, mask), -(one * other).sum(-1).mean())


def test_it_is_half_the_squared_distance_of_unit_vectors_less_one() -> None:
    student, teacher, mask = batch()
    one, other = (torch.nn.functional.normalize(features[mask], dim=-1) for features in (student, teacher))
    expected = (0.5 * (one - other).square().sum(-1)).mean() - 1
    torch.testing.assert_close(packed_loss(student, teacher, mask), expected)


def test_its_gradient_equals_that_of_a_boolean_index_and_vanishes_at_visible_patches() -> None:
    student, teacher, mask = batch()
    student.requires_grad_()
    plain = -torch.cosine_similarity(student[mask], teacher[mask], dim=-1).mean()
    mine, theirs = (torch.autograd.grad(loss, student)[0] for loss in (packed_loss(student, teacher, mask), plain))
    torch.testing.assert_close(mine, theirs)
    assert not mine[~mask].any()


@pytest.mark.parametrize(("factor", "value"), [(3.0, -1.0), (-0.5, 1.0)])
def test_length_does_not_matter_and_agreement_is_minus_one(factor: float, value: float) -> None:
    student, _, mask = batch()
    assert packed_loss(student, student * factor, mask).item() == pytest.approx(value)


def test_vectors_of_length_zero_count_as_orthogonal() -> None:
    student, teacher, mask = batch()
    assert packed_loss(torch.zeros_like(student), teacher, mask) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_widened_before_anything_else(dtype: torch.dtype) -> None:
    student, teacher, mask = batch(torch.float32)
    student, teacher = (features.mul(300).to(dtype) for features in (student, teacher))  # squares beyond float16
    loss = packed_loss(student, teacher, mask)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, packed_loss(student.float(), teacher.float(), mask), rtol=0, atol=0)


def test_parts_of_a_batch_add_up_under_the_count_of_all() -> None:
    student, teacher, mask = batch()
    teacher[:2] = student[:2]  # the images with few hidden patches agree
    whole = packed_loss(student, teacher, mask)
    parts = [packed_loss(student[i : i + 2], teacher[i : i + 2], mask[i : i + 2], count=mask.sum()) for i in (0, 2)]
    torch.testing.assert_close(sum(parts), whole)
    means = [packed_loss(student[i : i + 2], teacher[i : i + 2], mask[i : i + 2]) for i in (0, 2)]
    assert abs(sum(means) / 2 - whole) > 0.1  # why the count is needed


def test_a_batch_that_hides_nothing_has_no_loss() -> None:
    student, teacher, mask = batch()
    assert packed_loss(student, teacher, torch.zeros_like(mask)) == 0
