"""Fits a file's weights to a model and accounts for every key of both."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eva02_det.checkpoint.account import Account
from eva02_det.checkpoint.layouts import Entry, layout_of, named_entries, repacked
from eva02_det.checkpoint.resize import position_grid, resize_patch_kernel, resize_position_table
from eva02_det.checkpoint.rotary import DRIFT, RotaryTables
from eva02_det.checkpoint.tables import (
    BACKBONE_PREFIX,
    CLASS_COUNTS,
    CONSTANTS,
    NEW_IN_BACKBONE,
    NOT_FOR_DETECTION,
    PATCH_KERNEL,
    POSITIONS,
    ROTARY_TABLE,
)

ANEW = "named in new_weights"
COUNTED = "class weights of training, counted from the annotations at hand"


@dataclass(frozen=True)
class Target:
    """What a model expects: its state dict, its saved buffers, the constants it computes, and its rotary reference length."""

    state: Mapping[str, Tensor]
    buffers: frozenset[str]
    constants: Mapping[str, Tensor]
    rotary_span: float

    @classmethod
    def of(cls, model: nn.Module) -> "Target":
        """`model` may be on the meta device."""
        state = model.state_dict()
        buffers = dict(model.named_buffers())
        constants = {name: buffer for name, buffer in buffers.items() if name not in state}
        spans = [getattr(getattr(module, "positions", None), "rotary_grid", None) for module in model.modules()]
        return cls(state, frozenset(buffers.keys() & state.keys()), constants, next((float(s) for s in spans if s), 16.0))

    @property
    def prefix(self) -> str:
        """What stands before the names of the backbone: nothing in a model that is one."""
        return BACKBONE_PREFIX if any(key.startswith(BACKBONE_PREFIX) for key in self.state) else ""


class Fit:
    """A file's weights assigned to the keys of a model: `weights`, in the model's shapes, and the `account`.

    Args:
        weights: the file's state dict.
        new: regular expressions of keys that start anew, whatever the file has under them.
        resize: how patch kernels change their size, see `resize_patch_kernel`.
        averaged: whether the weights are an average, whose constants may have drifted.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        target: Target,
        origin: str = "",
        *,
        new: tuple[str, ...] = (),
        resize: str = "bicubic",
        averaged: bool = False,
    ) -> None:
        self.target, self.resize = target, resize
        self.layout = layout_of(weights.keys())
        self.account = Account(origin, self.layout.name)
        self.weights: dict[str, Tensor] = {}
        self._new = [re.compile(rule) for rule in new]
        self._tables = RotaryTables(target.rotary_span, averaged=averaged)
        self._refused: set[str] = set()
        for name, entry in repacked(named_entries(weights, self.layout, target.prefix), target.state).items():
            if not self._take_out(name, entry):
                self._assign(name, entry)
        for name, tensor in target.state.items():
            if name not in self.weights and name not in self._refused:
                self._leave(name, tensor)

    def _take_out(self, name: str, entry: Entry) -> bool:
        """Whether the entry goes no further: dropped by a rule, or refused by the check that the rule demands."""
        key, problem, reason = entry.keys[0], None, self._reason_to_drop(name)
        if re.search(ROTARY_TABLE, name):
            problem, reason = self._tables.problem(key, entry.tensor), "rotary table, equal to the computed one"
        elif reason is None and any(re.search(rule, name) for rule in CONSTANTS):
            problem, reason = self._constant_problem(name, entry.tensor), "constant, equal to that of the config"
        if problem is not None:
            self.account.damaged[key] = problem
        elif reason is not None:
            self.account.dropped.update(dict.fromkeys(entry.keys, reason))
        return problem is not None or reason is not None

    def _reason_to_drop(self, name: str) -> str | None:
        if re.search(CLASS_COUNTS, name):
            return COUNTED
        if self._may_start_anew(name):
            return ANEW
        if name in self.target.state:
            return None
        bare = name.removeprefix(self.target.prefix)
        return next((words for rule, words in NOT_FOR_DETECTION if self.layout.backbone and re.search(rule, bare)), None)

    def _constant_problem(self, name: str, stored: Tensor) -> str | None:
        """What is wrong with a stored constant that the model computes from its config."""
        own = self.target.constants.get(name)
        if own is None or own.is_meta:
            return None
        own = own.detach().cpu().float()
        allowed = DRIFT * float(own.abs().max())
        if own.shape == stored.shape and bool(((stored.float() - own).abs() <= allowed).all()):
            return None
        return f"{_values(stored)} where the config gives {_values(own)}"

    def _assign(self, name: str, entry: Entry) -> None:
        """Into the model's weights, or to what does not fit."""
        key, here, wanted = entry.keys[0], entry.tensor, self.target.state.get(name)
        if wanted is None:
            self.account.unexpected[key] = tuple(here.shape)
            return
        here = self._resized(name, here, wanted) if self.layout.backbone else here
        self._refused.add(name)
        if here.shape != wanted.shape:
            self.account.mismatched[key] = (tuple(here.shape), tuple(wanted.shape))
        elif here.is_floating_point() != wanted.is_floating_point():
            self.account.damaged[key] = f"holds {here.dtype} instead of {wanted.dtype}".replace("torch.", "")
        elif not all_finite(here):
            self.account.damaged[key] = "holds NaN or infinity"
        else:
            self._fill(name, entry, here)

    def _fill(self, name: str, entry: Entry, here: Tensor) -> None:
        account = self.account
        self.weights[name] = here
        account.filled.append(name)
        for key in entry.keys:
            if key != name:
                account.renamed[key] = (*account.renamed.get(key, ()), name)
            if key not in account.used:
                account.used.append(key)
        if here.shape != entry.tensor.shape:
            account.resized[entry.keys[0]] = (tuple(entry.tensor.shape), tuple(here.shape))

    def _resized(self, name: str, here: Tensor, wanted: Tensor) -> Tensor:
        """Patch kernels and position tables in the size of the model, anything else as it is."""
        bare = name.removeprefix(self.target.prefix)
        if here.shape == wanted.shape or here.dim() != wanted.dim():
            return here
        if bare == PATCH_KERNEL and here.dim() == 4 and here.shape[:2] == wanted.shape[:2] and here.shape[2] == here.shape[3]:
            return resize_patch_kernel(here, wanted.shape[3], self.resize)
        if bare == POSITIONS and here.dim() == 3 and here.shape[::2] == wanted.shape[::2] and position_grid(here.shape[1]):
            return resize_position_table(here, wanted.shape[1])
        return here

    def _leave(self, name: str, tensor: Tensor) -> None:
        """A key of the model that the file does not fill: new by rule, or absent."""
        in_backbone = name.startswith(self.target.prefix)
        if re.search(CLASS_COUNTS, name):
            self.account.new[name] = COUNTED
        elif self._may_start_anew(name):
            self.account.new[name] = ANEW
        elif self.layout.backbone and not in_backbone:
            self.account.new[name] = "outside the backbone"
        elif self.layout.backbone and any(re.search(rule, name) for rule in NEW_IN_BACKBONE):
            self.account.new[name] = "unknown to pre-training"
        else:
            self.account.absent[name] = tuple(tensor.shape)

    def _may_start_anew(self, name: str) -> bool:
        return any(rule.search(name) for rule in self._new)


def all_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    extremes = torch.aminmax(tensor)  # NaN comes through; thirty times faster than isfinite, which makes a tensor
    return bool(extremes.min.isfinite() and extremes.max.isfinite())


def _values(tensor: Tensor, count: int = 3) -> str:
    shown = ", ".join(f"{value:g}" for value in tensor.flatten()[:count].tolist())
    return f"[{shown}{', ...' if tensor.numel() > count else ''}]"
