"""Copies of a run's state in host memory, which a thread can write while the run goes on changing the originals."""

import copy
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

PLAIN = (int, float, complex, bool, str, bytes, type(None))  # cannot change


class HostCopies:
    """Nested containers with their tensors copied to host memory that the next copy uses again.

    Memory stays allocated between copies, pinned where tensors come from a GPU: a copy then takes what the bus needs. What one
    call gave must be done with before the next.
    """

    def __init__(self) -> None:
        self._buffers: dict[Hashable, Tensor] = {}

    def take(self, content: Any) -> Any:
        """The same containers and values, tensors on the CPU. Tensors that are one in `content` are one in the copy."""
        fresh: dict[Hashable, Tensor] = {}
        pending: set[torch.device] = set()
        taken: dict[Hashable, Tensor] = {}
        copied = self._copied(content, (), fresh, taken, pending)
        for device in pending:
            torch.cuda.current_stream(device).synchronize()
        self._buffers.update(fresh)
        return copied

    def _copied(self, value: Any, place: tuple[Any, ...], fresh: Any, taken: Any, pending: set[torch.device]) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value.detach(), place, fresh, taken, pending)
        if isinstance(value, PLAIN):
            return value
        if isinstance(value, dict):
            other = copy.copy(value)  # of the same class, with its attributes: a state dict has versions in one
            for key, inner in value.items():
                other[key] = self._copied(inner, (*place, key), fresh, taken, pending)
            return other
        if type(value) in (list, tuple):
            parts = [self._copied(inner, (*place, index), fresh, taken, pending) for index, inner in enumerate(value)]
            return type(value)(parts)
        return copy.deepcopy(value)

    def _tensor(self, value: Tensor, place: Hashable, fresh: Any, taken: Any, pending: set[torch.device]) -> Tensor:
        identity = (value.data_ptr(), value.device, value.dtype, tuple(value.shape), value.stride())
        if value.numel() and identity in taken:
            return taken[identity]
        buffer = self._buffers.get(place)
        if buffer is None or not _alike(buffer, value):
            buffer = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        buffer.copy_(value, non_blocking=value.is_cuda)
        if value.is_cuda:
            pending.add(value.device)
        fresh[place] = taken[identity] = buffer
        return buffer


def _alike(buffer: Tensor, value: Tensor) -> bool:
    return buffer.shape == value.shape and buffer.dtype == value.dtype and buffer.is_pinned() == value.is_cuda
