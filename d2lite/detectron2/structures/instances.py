"""A record of everything known about the objects of one image."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor


class Instances:
    """Named fields of equal length, one entry an object, reached as attributes; names with a leading underscore are private.

    `image_size` is the (height, width) that the coordinates refer to.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._image_size

    def __setattr__(self, name: str, val: Any) -> None:
        if name[:1] == "_":
            object.__setattr__(self, name, val)
        else:
            self.set(name, val)

    def __getattr__(self, name: str) -> Any:
        # only reached when ordinary look-up fails; copy and pickle ask before `_fields` exists
        fields = self.__dict__.get("_fields", {})
        try:
            return fields[name]
        except KeyError:
            raise AttributeError(f"these Instances have no field {name!r}, only {sorted(fields)}") from None

    def set(self, name: str, value: Any) -> None:
        """Add or replace a field; its length must be that of the others."""
        others = [len(field) for key, field in self._fields.items() if key != name]
        if others and len(value) != others[0]:
            raise AssertionError(f"field {name!r} has {len(value)} entries, the record {others[0]}")
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Whether there is such a field."""
        return name in self._fields

    def get(self, name: str) -> Any:
        """The field of that name; KeyError when there is none."""
        return self._fields[name]

    def remove(self, name: str) -> None:
        """Forget a field."""
        self._fields.pop(name)

    def get_fields(self) -> dict[str, Any]:
        """The live dictionary of fields."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        """Every field that knows `to`, moved."""
        return self._map(lambda field: field.to(*args, **kwargs) if hasattr(field, "to") else field)

    def __getitem__(self, item: Any) -> Instances:
        """The chosen objects as a record of their own; an int chooses one."""
        if isinstance(item, int):
            count = len(self)
            if not -count <= item < count:
                raise IndexError(f"no object {item} among {count}")
            item = slice(item % count, item % count + 1)
        return self._map(lambda field: field[item])

    def _map(self, change: Callable[[Any], Any]) -> Instances:
        result = Instances(self._image_size)
        for name, field in self._fields.items():
            result.set(name, change(field))
        return result

    def __len__(self) -> int:
        for field in self._fields.values():
            return len(field)
        raise NotImplementedError("Instances without a field have no length")

    def __iter__(self) -> Any:
        raise NotImplementedError("Instances are not iterable; index them or take one field")

    @staticmethod
    def cat(instance_lists: list[Instances]) -> Instances:
        """One record with the objects of all, fields as in the first; all must be of one image size."""
        first, *rest = instance_lists
        if not rest:
            return first
        if any(other.image_size != first.image_size for other in rest):
            raise AssertionError("records of different image sizes cannot be joined")
        joined = Instances(first.image_size)
        for name in first.get_fields():
            joined.set(name, _join([record.get(name) for record in instance_lists]))
        return joined

    def __repr__(self) -> str:
        count = len(self) if self._fields else 0
        height, width = self._image_size
        inside = ", ".join(f"{name}: {field}" for name, field in self._fields.items())
        return f"Instances(num_instances={count}, image_height={height}, image_width={width}, fields=[{inside}])"


def _join(parts: list[Any]) -> Any:
    """Concatenate tensors, lists, or anything whose class offers `cat`."""
    sample = parts[0]
    if isinstance(sample, Tensor):
        return torch.cat(parts)
    if isinstance(sample, list):
        return list(chain.from_iterable(parts))
    if hasattr(type(sample), "cat"):
        return type(sample).cat(parts)
    raise ValueError(f"fields of type {type(sample).__name__} cannot be joined")
