"""Which tokens are hidden from the student, as index arrays of one static shape.

Axes: B images, N patches, K slots for hidden patches. Polarity in the whole package: True or weight 1 = not shown to the
student.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from eva02_det.utils.errors import UserError


class HiddenTokens(NamedTuple):
    """The hidden patches of a batch, [B, K], or of one image, [K]. A slot of weight 0 is padding and names any patch."""

    index: Tensor  # type: ignore[assignment]  # hides tuple.index; int64, row-major over the grid without the class token
    weight: Tensor  # float32, 1 or 0


def hidden_mask(hidden: HiddenTokens, num_patches: int) -> Tensor:
    """[B, N] bool, True = hidden, or [N] from the arrays of one image. Works without asking the device for a value."""
    # padding is written to a place beyond the last patch, so that it cannot undo nor fake a hidden one
    index = hidden.index.masked_fill(hidden.weight == 0, num_patches)
    mask = torch.zeros(*index.shape[:-1], num_patches + 1, dtype=torch.bool, device=index.device)
    return mask.scatter(-1, index, True)[..., :num_patches]


def pack_hidden(mask: Tensor, slots: int | None = None) -> HiddenTokens:
    """The index arrays of a mask [B, N] or [N] bool: hidden patches in order, then padding up to `slots`.

    For the host: without `slots` their number is the largest count in the batch, and the counts are read in any case.

    Raises:
        UserError: where an image hides more patches than there are slots, or where there are more slots than patches.
    """
    counts = mask.sum(-1, keepdim=True)
    most = int(counts.max())
    slots = most if slots is None else slots
    if not most <= slots <= mask.shape[-1]:
        raise UserError(f"{slots} slots for a mask that hides {most} of {mask.shape[-1]} patches; the count lies in between")
    # a stable sort puts the hidden patches first and keeps their order; what follows them is padding
    index = (~mask).to(torch.uint8).argsort(dim=-1, stable=True)[..., :slots]
    return HiddenTokens(index, (torch.arange(slots, device=mask.device) < counts).float())
