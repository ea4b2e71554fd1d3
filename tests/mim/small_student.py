"""Small students, random throughout, and batches for them."""

from typing import Any

import torch
from torch import Tensor, nn

from eva02_mim.hidden import HiddenTokens, pack_hidden
from eva02_mim.loss import hidden_targets, hidden_token_loss
from eva02_mim.student import MimStudent


def small_student(**options: Any) -> MimStudent:
    """4 x 4 patches of 14 px, 3 blocks, 2 heads, targets of 12 numbers; no parameter keeps a special value."""
    torch.manual_seed(0)
    student = MimStudent(32, 3, 2, **{"image_size": 56, "target_dim": 12, **options})
    return randomise(student)


@torch.no_grad()
def randomise(module: nn.Module) -> Any:
    """Biases and tokens random, norms near 1, so that a part left out is seen."""
    for parameter in module.parameters():
        if parameter.ndim == 1 or parameter.shape[:2] == (1, 1):
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module


def small_batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, HiddenTokens, Tensor]:
    """Images [2, 3, 56, 56], hidden tokens with padding [2, 7], the teacher's features [2, 16, 12]."""
    torch.manual_seed(1)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, [1, 2, 5, 6, 9]] = True
    mask[1, [0, 3, 12, 15]] = True
    return torch.randn(2, 3, 56, 56, dtype=dtype), pack_hidden(mask, 7), torch.randn(2, 16, 12, dtype=dtype)


def loss_of(student: MimStudent, batch: tuple[Tensor, HiddenTokens, Tensor]) -> Tensor:
    images, hidden, targets = batch
    return hidden_token_loss(student(images, hidden), hidden_targets(targets, hidden.index), hidden.weight)
