"""Parameter groups of the optimiser: what is decayed (specification 6.3), and how much each layer learns (6.5)."""

import re
from typing import Any

from torch import nn

UNDECAYED = ("pos_embed", "cls_token")
EMBEDDING = ("cls_token", "pos_embed", "mask_token", "patch_embed.")


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


def layer_of(name: str, depth: int) -> int:
    """0 for the embedding, i + 1 for block i, depth + 1 for what follows the blocks."""
    if name.startswith(EMBEDDING):
        return 0
    block = re.match(r"blocks\.(\d+)\.", name)
    return int(block[1]) + 1 if block else depth + 1


def layer_decay_groups(model: nn.Module, *, layer_decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups by layer and by whether they are decayed, with `lr_scale` layer_decay^(depth + 1 - layer): 1 for norm and head.

    The model has `blocks`. Parameters that do not learn are left out.
    """
    depth = sum(1 for _ in model.get_submodule("blocks").children())
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer, decayed = layer_of(name, depth), is_decayed(name, parameter)
        scale = layer_decay ** (depth + 1 - layer)
        fresh = {"params": [], "lr_scale": scale, "weight_decay": weight_decay if decayed else 0.0}
        groups.setdefault((layer, decayed), fresh)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def frozen_decay(model: nn.Module, *, layer_decay: float, weight_decay: float) -> list[tuple[nn.Parameter, float]]:
    """(parameter, decay at a rate of 1) of what does not learn and would be decayed if it did."""
    depth = sum(1 for _ in model.get_submodule("blocks").children())
    return [
        (parameter, weight_decay * layer_decay ** (depth + 1 - layer_of(name, depth)))
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad and is_decayed(name, parameter)
    ]
