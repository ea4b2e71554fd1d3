"""Recognises the layout of a file's weights by their keys, and gives every tensor the name it has in our models."""

import re
from collections.abc import Collection, Mapping, Sequence
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
    result: dict[str, Entry] = {}
    for key, tensor in weights.items():
        _add(result, before + layout.canonical(key), Entry(tensor, (key,)))
    return result


def repacked(entries: Mapping[str, Entry], wanted: Mapping[str, Tensor]) -> dict[str, Entry]:
    """Packed matrices split, or separate ones joined, where that gives the names and shapes of `wanted`."""
    result: dict[str, Entry] = {}
    for name, entry in entries.items():
        parts = _parts(name)
        shapes = [wanted[part].shape for part in parts if part in wanted]
        if name in wanted or not parts or len(shapes) < len(parts) or entry.tensor.shape != _stacked(shapes):
            _add(result, name, entry)
            continue
        for part, piece in zip(parts, entry.tensor.split([shape[0] for shape in shapes])):
            _add(result, part, Entry(piece, entry.keys))
    for name in wanted.keys() - result.keys():
        parts = _parts(name)
        pieces = [result[part] for part in parts if part in result and part not in wanted]
        if parts and len(pieces) == len(parts) and _stacked([piece.tensor.shape for piece in pieces]) == wanted[name].shape:
            tensor = torch.cat([result.pop(part).tensor for part in parts])
            result[name] = Entry(tensor, tuple(key for piece in pieces for key in piece.keys))
    return result


def _add(entries: dict[str, Entry], name: str, entry: Entry) -> None:
    """A second tensor of one name is kept under a name that no model has, so that it is reported."""
    entries[name if name not in entries else f"{name} (again, from {entry.keys[0]})"] = entry


def _stacked(shapes: Sequence[torch.Size]) -> torch.Size | None:
    """Shape of the tensors put on top of each other; None where they do not fit."""
    if any(len(shape) == 0 or shape[1:] != shapes[0][1:] for shape in shapes):
        return None
    return torch.Size((sum(shape[0] for shape in shapes), *shapes[0][1:]))


def _parts(name: str) -> tuple[str, ...]:
    """The separate names of a packed one; none where it is not packed."""
    for packed, parts in PACKED:
        if name.endswith(packed):
            return tuple(name.removesuffix(packed) + part for part in parts)
    return ()
