"""Window order: a permutation, its inverse, and slots that are filled and left out again."""

import pytest
import torch

from eva02_det.layers.windows import window_order

GRIDS = [((8, 8), 4), ((4, 12), 4), ((6, 6), 4), ((5, 7), 3), ((3, 2), 5), ((1, 9), 2)]


def padded_windows(grid_map: torch.Tensor, side: int) -> torch.Tensor:
    """Reference: [rows, cols] -> [W, side * side], zeros right and below."""
    rows, cols = grid_map.shape
    down, across = -(-rows // side), -(-cols // side)
    padded = grid_map.new_zeros(down * side, across * side)
    padded[:rows, :cols] = grid_map
    corners = [(side * r, side * c) for r in range(down) for c in range(across)]
    return torch.stack([padded[r : r + side, c : c + side].flatten() for r, c in corners])


@pytest.mark.parametrize(("grid", "side"), GRIDS)
def test_split_equals_padding_and_cutting_the_map(grid: tuple[int, int], side: int) -> None:
    order = window_order(grid, side)
    values = torch.arange(1.0, grid[0] * grid[1] + 1)
    heads = order.split(order.to_windows(values[None, :, None]).unsqueeze(-1))
    torch.testing.assert_close(heads[..., 0, 0], padded_windows(values.view(grid), side))


@pytest.mark.parametrize(("grid", "side"), GRIDS)
def test_window_order_and_back_changes_nothing(grid: tuple[int, int], side: int) -> None:
    order = window_order(grid, side)
    tokens = torch.randn(2, grid[0] * grid[1], 3)
    assert torch.equal(order.to_grid(order.to_windows(tokens)), tokens)


@pytest.mark.parametrize(("grid", "side"), GRIDS)
def test_join_undoes_split(grid: tuple[int, int], side: int) -> None:
    order = window_order(grid, side)
    heads = torch.randn(2, grid[0] * grid[1], 2, 4)
    assert torch.equal(order.join(order.split(heads)), heads)


@pytest.mark.parametrize(("grid", "side"), GRIDS)
def test_table_row_of_a_token_is_the_row_of_its_slot(grid: tuple[int, int], side: int) -> None:
    order = window_order(grid, side)
    tiled = order.tile(torch.arange(side * side))
    row, col = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    expected = (row % side * side + col % side).flatten()
    assert torch.equal(order.to_grid(tiled[None, :, None]).flatten(), expected)


def test_empty_slots_hold_the_fill() -> None:
    order = window_order((3, 3), 2)
    fill = torch.tensor([[7.0, 8.0]])
    slots = order.split(torch.zeros(2, 9, 1, 2), fill)
    assert slots.shape == (8, 4, 1, 2)
    assert (slots == fill).all(-1).sum() == 2 * (16 - 9)


@pytest.mark.parametrize(("grid", "side"), [((5, 7), 3), ((4, 4), 2)])
def test_gradients_of_every_move_are_exact(grid: tuple[int, int], side: int) -> None:
    order = window_order(grid, side)
    tokens = torch.randn(2, grid[0] * grid[1], 1, 2, dtype=torch.float64, requires_grad=True)
    fill = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)
    slots = order.split(tokens, fill).detach().requires_grad_()
    assert torch.autograd.gradcheck(order.split, (tokens, fill))
    assert torch.autograd.gradcheck(order.join, slots)
    assert torch.autograd.gradcheck(order.to_windows, tokens[..., 0])
    assert torch.autograd.gradcheck(order.to_grid, tokens[..., 0])


def test_dividing_windows_need_no_index() -> None:
    assert window_order((32, 64), 16).slots is None
    assert window_order((32, 64), 16).windows == (2, 4)
