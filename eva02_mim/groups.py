"""Which parameters are decayed: two groups for the optimiser (specification 6.3)."""

from typing import Any

from torch import nn

UNDECAYED = ("pos_embed", "cls_token")


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices, kernels and the mask token, not to vectors, biases and the other embeddings."""
    return parameter.ndim > 1 and not name.endswith(".bias") and name not in UNDECAYED


def decay_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups (undecayed, decayed) of the parameters that learn."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (decayed if is_decayed(name, parameter) else others).append(parameter)
    return [{"params": others, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]
