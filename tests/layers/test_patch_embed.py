"""Patches of any image size, and position tables that are resized, remembered and never stale."""

import pytest
import torch

from eva02_det.layers.patch_embed import PatchEmbed, Positions, ResizedPositions, resize_positions


def test_a_token_is_one_linear_map_of_its_patch() -> None:
    embed, images = PatchEmbed(4, 5), torch.randn(2, 3, 8, 12)
    patch = images[1, :, 4:8, 8:12].flatten()
    torch.testing.assert_close(embed(images)[1, :, 1, 2], embed.proj.weight.flatten(1) @ patch + embed.proj.bias)


@pytest.mark.parametrize("size", [(8, 9), (7, 8), (5, 13), (1, 1)])
def test_odd_sizes_equal_zeros_added_right_and_below(size: tuple[int, int]) -> None:
    embed, images = PatchEmbed(4, 5), torch.randn(2, 3, *size)
    by_hand = torch.zeros(2, 3, -(-size[0] // 4) * 4, -(-size[1] // 4) * 4)
    by_hand[:, :, : size[0], : size[1]] = images
    torch.testing.assert_close(embed(images), embed.proj(by_hand))


def test_own_grid_is_returned_without_the_class_row() -> None:
    table = torch.randn(1, 10, 4)
    assert torch.equal(resize_positions(table, (3, 3)), table[:, 1:])
    assert torch.equal(resize_positions(table[:, 1:], (3, 3)), table[:, 1:])
    assert Positions(3).rows == 10
    assert Positions(3, cls_token=False).rows == 9


def test_a_resized_constant_stays_constant_and_rows_stay_rows() -> None:
    table = torch.arange(3.0).repeat_interleave(3).view(1, 9, 1)  # value = row
    resized = resize_positions(table, (7, 5)).view(7, 5)
    torch.testing.assert_close(resized, resized[:, :1].expand(7, 5))
    assert (resized[1:, 0] > resized[:-1, 0]).all()
    torch.testing.assert_close(resize_positions(torch.full((1, 9, 1), 2.5), (7, 5)), torch.full((1, 35, 1), 2.5))


def test_remembered_table_is_reused_while_the_learned_one_stays() -> None:
    remember, table = ResizedPositions(), torch.randn(1, 9, 4)
    assert remember(table, (5, 4)) is remember(table, (5, 4))
    torch.testing.assert_close(remember(table, (5, 4)), resize_positions(table, (5, 4)))


@pytest.mark.parametrize("write", ["in_place", "data", "replaced", "dtype"])
def test_any_change_of_the_learned_table_is_noticed(write: str) -> None:
    remember, table = ResizedPositions(), torch.nn.Parameter(torch.randn(1, 9, 4))
    remember(table, (5, 4))
    if write == "in_place":
        with torch.no_grad():
            table[0, 3, 1] += 1
    elif write == "data":
        table.data[0, 3, 1] += 1
    elif write == "replaced":
        table.data = torch.randn(1, 9, 4)
    else:
        table = torch.nn.Parameter(table.data.double())
    torch.testing.assert_close(remember(table, (5, 4)), resize_positions(table.detach(), (5, 4)), rtol=0, atol=0)


def test_memory_of_grids_is_bounded() -> None:
    remember, table = ResizedPositions(capacity=2), torch.randn(1, 9, 4)
    first = remember(table, (1, 2))
    for cols in (3, 4):
        remember(table, (1, cols))
    again = remember(table, (1, 2))
    assert again is not first
    assert torch.equal(again, first)
