"""Rotary positions: what they encode, on any grid, in any precision."""

import math

import pytest
import torch

from eva02_det.layers.rope import rotary_angles, rotary_table, rotate


def score(query: torch.Tensor, key: torch.Tensor, at: tuple[int, int], other: tuple[int, int]) -> torch.Tensor:
    """Dot product of the two vectors, turned for two places on a 16 x 16 grid."""
    table = rotary_table((16, 16), query.numel())
    places = [row * 16 + col for row, col in (at, other)]
    turned = rotate(torch.stack((query, key))[None, :, None], table[places])
    return turned[0, 0, 0] @ turned[0, 1, 0]


def test_score_depends_only_on_displacement() -> None:
    query, key = torch.randn(2, 32)
    first = score(query, key, (0, 5), (2, 4))
    torch.testing.assert_close(first, score(query, key, (7, 9), (9, 8)), rtol=1e-4, atol=1e-4)
    assert not torch.isclose(first, score(query, key, (7, 9), (9, 9)), rtol=1e-3)


def test_rotation_keeps_length_and_leaves_the_origin_alone() -> None:
    heads = torch.randn(2, 12, 3, 8)
    turned = rotate(heads, rotary_table((3, 4), 8))
    torch.testing.assert_close(turned.norm(dim=-1), heads.norm(dim=-1))
    torch.testing.assert_close(turned[:, 0], heads[:, 0])


def test_one_angle_worked_out_by_hand() -> None:
    # head of 8: two frequencies per axis, 1 and 10000^(-2/4) = 0.01; 5 rows cover 16 positions, 2 columns too
    angles = rotary_angles((5, 2), 8)
    row, col = 3 * 16 / 5, 1 * 16 / 2
    expected = torch.tensor([row, 0.01 * row, col, 0.01 * col])
    torch.testing.assert_close(angles[3 * 2 + 1], expected)
    pair = rotate(torch.eye(8)[0].view(1, 1, 1, 8), rotary_table((5, 2), 8)[7:8]).flatten()
    torch.testing.assert_close(pair[:2], torch.tensor([math.cos(row), math.sin(row)]))
    assert pair[2:].abs().max() == 0


def test_a_side_spans_the_same_positions_whatever_its_length() -> None:
    torch.testing.assert_close(rotary_angles((16, 16), 16)[5 * 16 + 3], rotary_angles((64, 32), 16)[20 * 32 + 6])


def test_swapping_the_axes_of_the_grid_swaps_the_halves_of_a_head() -> None:
    tall = rotary_angles((6, 4), 16).view(6, 4, 8)
    wide = rotary_angles((4, 6), 16).view(4, 6, 8).transpose(0, 1)
    torch.testing.assert_close(tall, torch.cat((wide[..., 4:], wide[..., :4]), -1))


def test_table_row_of_one_and_zero_leaves_its_token_alone() -> None:
    heads = torch.randn(1, 1, 2, 8)
    torch.testing.assert_close(rotate(heads, torch.tensor([1.0, 0.0]).expand(1, 4, 2)), heads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_turned_in_single_precision(dtype: torch.dtype) -> None:
    heads, table = torch.randn(1, 12, 2, 8), rotary_table((3, 4), 8)
    turned = rotate(heads.to(dtype), table)
    assert turned.dtype == torch.float32
    torch.testing.assert_close(turned, rotate(heads.to(dtype).float(), table), rtol=0, atol=0)


def test_overwriting_gives_the_same_values_in_the_memory_of_the_input() -> None:
    heads, table = torch.randn(2, 12, 3, 8), rotary_table((3, 4), 8)
    expected, memory = rotate(heads, table), heads.data_ptr()
    result = rotate(heads, table, overwrite=True)
    torch.testing.assert_close(result, expected)
    assert result.data_ptr() == memory


def test_double_precision_is_kept_and_its_gradient_is_exact() -> None:
    heads = torch.randn(1, 6, 2, 4, dtype=torch.float64, requires_grad=True)
    table = rotary_table((2, 3), 4).double()
    assert rotate(heads, table).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x: rotate(x, table), heads)


def test_compiled_rotation_equals_the_eager_one() -> None:
    heads, table = torch.randn(2, 12, 3, 8), rotary_table((3, 4), 8)
    compiled = torch.compile(rotate, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(heads, table), rotate(heads, table))


def test_head_that_cannot_be_split_into_two_axes_of_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        rotary_angles((2, 2), 6)
