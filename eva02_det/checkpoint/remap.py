"""Fits a file's weights to a model and accounts for every key of both."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eva02_det.checkpoint.tables import BACKBONE_MARK, BACKBONE_PREFIX, DERIVED, PRETRAINING_ONLY

Shape = tuple[int, ...]


@dataclass
class Account:
    """Where every key went: each key of the file is in one of the first four, each of the model in `weights` or `absent`."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)  # key -> (file, model)
    absent: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether file and model agree, derived tables aside."""
        return not (self.unexpected or self.mismatched or self.absent)

    def summary(self) -> str:
        """One line with counts and the first names of whatever does not fit."""
        shapes = _shapes(self.mismatched)
        lists = {"not in the file": self.absent, "not in the model": self.unexpected, "of another shape": shapes}
        parts = [f"{len(names)} {what} ({_some(names)})" for what, names in lists.items() if names]
        return f"{len(self.weights)} tensors fit" + "".join(f", {part}" for part in parts)


def is_backbone(weights: Iterable[str]) -> bool:
    """Whether these are the keys of a bare (pre-trained) backbone."""
    return BACKBONE_MARK in set(weights)


def remap(weights: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> Account:
    """Assign a file's tensors to the model's keys; a bare backbone is placed under the detector's prefix."""
    backbone = is_backbone(weights)
    drop = [re.compile(rule) for rule in (*DERIVED, *(PRETRAINING_ONLY if backbone else ()))]
    account = Account()
    for key, value in weights.items():
        name = BACKBONE_PREFIX + key if backbone else key
        if any(rule.search(key) for rule in drop):
            account.dropped.append(key)
        elif name not in model:
            account.unexpected.append(key)
        elif value.shape != model[name].shape:
            account.mismatched[key] = (tuple(value.shape), tuple(model[name].shape))
        else:
            account.weights[name] = value
    refused = {BACKBONE_PREFIX + key if backbone else key for key in account.mismatched}
    account.absent = [key for key in model if key not in account.weights and key not in refused]
    return account


def load_account(model: torch.nn.Module, account: Account) -> None:
    """Copy the weights that fit into the model."""
    model.load_state_dict(account.weights, strict=False)


def _some(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _shapes(mismatched: Mapping[str, tuple[Shape, Shape]]) -> list[str]:
    return [f"{key} {list(file)} instead of {list(model)}" for key, (file, model) in mismatched.items()]
