"""Recognises the layout of a file's weights by their keys, and gives every tensor the name it has in our models."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from eva02_det.checkpoint.tables import BACKBONE_PREFIX, LAYOUTS, PACKED, PATCH_KERNEL, Renames


@dataclass(frozen=True)
class Layout:
    """How a file names its weights. `backbone`: it holds one and nothing else; `prefix` then stands before all its keys."""

    name: str
    backbone: bool = False
    prefix: str = ""
    renames: Renames = ()

    def canonical(self, key: str) -> str:
        """The bare name that our models have for a key of the file."""
        key = key.removeprefix(self.prefix)
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key


@dataclass(frozen=True)
class Entry:
    """A tensor on its way into a model: the keys of the file that it comes from."""

    tensor: Tensor
    keys: tuple[str, ...]


def layout_of(keys: Collection[str]) -> Layout:
    """A detector where there are keys besides those of a backbone."""
    prefix = BACKBONE_PREFIX if all(key.startswith(BACKBONE_PREFIX) for key in keys) else ""
    if prefix + PATCH_KERNEL not in keys:
        return Layout("detector")
    return next(
        Layout(name, backbone=True, prefix=prefix, renames=renames) for mark, name, renames in LAYOUTS if prefix + mark in keys
    )


def named_entries(weights: Mapping[str, Tensor], layout: Layout, prefix: str = "") -> dict[str, Entry]:
    """Name in our models -> tensor. `prefix` stands before the names of a bare backbone."""
    before = prefix if layout.backbone else ""
    return {before + layout.canonical(key): Entry(tensor, (key,)) for key, tensor in weights.items()}


def repacked(entries: Mapping[str, Entry], wanted: Mapping[str, Tensor]) -> dict[str, Entry]:
    """Packed matrices split, or separate ones joined, where that gives the names and shapes of `wanted`."""
    result: dict[str, Entry] = {}
    for name, entry in entries.items():
        parts = _parts(name)
        rows = sum(wanted[part].shape[0] for part in parts) if all(part in wanted for part in parts) else 0
        if parts and name not in wanted and entry.tensor.shape[0] == rows:
            pieces = entry.tensor.split([wanted[part].shape[0] for part in parts])
            result.update({part: Entry(piece, entry.keys) for part, piece in zip(parts, pieces)})
        else:
            result[name] = entry
    for name in wanted:
        parts = _parts(name)
        if parts and name not in result and all(part in result and part not in wanted for part in parts):
            joined = [result.pop(part) for part in parts]
            keys = tuple(key for entry in joined for key in entry.keys)
            result[name] = Entry(torch.cat([entry.tensor for entry in joined]), keys)
    return result


def _parts(name: str) -> tuple[str, ...]:
    """The separate names of a packed one; none where it is not packed."""
    for packed, parts in PACKED:
        if name.endswith(packed):
            return tuple(name.removesuffix(packed) + part for part in parts)
    return ()
