"""Rows picked by index equal those of a loop over images, and so do their gradients."""

import torch

from eva02_det.layers.pick import pick


def test_rows_and_gradients_equal_those_of_a_loop_even_where_a_row_is_picked_twice() -> None:
    rows = torch.randn(3, 7, 4, 2, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[0, 6, 6], [3, 1, 2], [5, 5, 0]])
    looped = torch.stack([image[places] for image, places in zip(rows, index)])
    picked = pick(rows, index)
    assert torch.equal(picked, looped)
    weight = torch.randn_like(picked)
    mine, theirs = (torch.autograd.grad(result, rows, weight, retain_graph=True)[0] for result in (picked, looped))
    torch.testing.assert_close(mine, theirs)
