"""Masks and index arrays say the same."""

import pytest
import torch

from eva02_det.utils.errors import UserError
from eva02_mim.hidden import HiddenTokens, hidden_mask, pack_hidden


@pytest.mark.parametrize("shape", [(5, 12), (12,)])
@pytest.mark.parametrize("spare", [0, 3])
def test_a_mask_comes_back_from_its_index_arrays(shape: tuple[int, ...], spare: int) -> None:
    torch.manual_seed(0)
    mask = torch.rand(shape) < 0.4
    slots = int(mask.sum(-1).max()) + spare
    hidden = pack_hidden(mask, slots)
    assert hidden.index.shape == hidden.weight.shape == (*shape[:-1], slots)
    assert hidden.index.dtype == torch.int64
    assert torch.equal(hidden_mask(hidden, 12), mask)
    assert torch.equal(hidden.weight.sum(-1), mask.sum(-1).float())


def test_hidden_patches_stand_in_the_order_of_a_boolean_index() -> None:
    mask = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0]], dtype=torch.bool)
    hidden = pack_hidden(mask)
    features = torch.arange(10).view(2, 5)
    assert torch.equal(features.gather(1, hidden.index)[hidden.weight > 0], features[mask])


def test_padding_neither_hides_a_patch_nor_shows_one() -> None:
    index = torch.tensor([[2, 2, 0], [1, 2, 2]])
    mask = hidden_mask(HiddenTokens(index, torch.tensor([[1.0, 0, 0], [0, 0, 1]])), 4)
    assert torch.equal(mask, torch.tensor([[0, 0, 1, 0], [0, 0, 1, 0]], dtype=torch.bool))


@pytest.mark.parametrize("slots", [2, 6])
def test_slots_that_cannot_be_filled_or_do_not_suffice_are_refused(slots: int) -> None:
    with pytest.raises(UserError, match=f"{slots} slots for a mask that hides 3 of 5"):
        pack_hidden(torch.tensor([True, True, False, True, False]), slots)
