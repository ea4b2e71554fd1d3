"""The scalars of a run, with their history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from fvcore.common.history_buffer import HistoryBuffer
from typing_extensions import Self

_entered: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """The storage whose `with` block we are in, the innermost one."""
    if not _entered:
        raise AssertionError("no EventStorage is in use; scalars can be stored only inside `with EventStorage():`")
    return _entered[-1]


class EventStorage:
    """Scalars by name, each value with the iteration it belongs to."""

    def __init__(self, start_iter: int = 0) -> None:
        self.iter = start_iter
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._latest: dict[str, tuple[float, int]] = {}
        self._smooth: dict[str, bool] = {}
        self._prefix = ""
        self._images: list[tuple[str, Any, int]] = []

    @property
    def iter(self) -> int:
        """Current iteration; the trainer sets it."""
        return self._iter

    @iter.setter
    def iter(self, value: int) -> None:
        self._iter = int(value)

    def step(self) -> None:
        """Go on to the next iteration, where no trainer sets it."""
        self.iter += 1

    def put_scalar(self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Add a number, or a tensor or array of one, at `cur_iter` (default: the current iteration).

        smoothing_hint: whether readers should look at a median over time (a loss) or at the value itself (an AP).
        """
        name, at, number = self._prefix + name, self._at(cur_iter), float(value)
        if self._smooth.setdefault(name, smoothing_hint) != smoothing_hint:
            raise AssertionError(f"scalar {name} was stored with smoothing_hint={not smoothing_hint} before; it cannot change")
        self._history[name].update(number, at)
        self._latest[name] = (number, at)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: Any) -> None:
        """Add several scalars: `put_scalars(loss=0.3, accuracy=0.9)`."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: torch.Tensor | np.ndarray) -> None:
        """Keep a picture [C, H, W] (uint8, or float in 0..1) until a writer has taken it."""
        self._images.append((img_name, img_tensor, self.iter))

    def take_images(self) -> list[tuple[str, Any, int]]:
        """The pictures kept so far as (name, picture, iteration), which are then forgotten."""
        taken, self._images = self._images, []
        return taken

    def history(self, name: str) -> HistoryBuffer:
        """All values of one scalar; KeyError where there are none."""
        if name not in self._history:
            raise KeyError(f"no scalar called {name} was stored")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """All values of all scalars."""
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """Newest value of each scalar, with its iteration."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Like `latest`, but medians over the last `window_size` iterations where the smoothing hint says so."""
        return {
            name: (self._history[name].median(self.count_samples(name, window_size)) if self._smooth[name] else value, at)
            for name, (value, at) in self._latest.items()
        }

    def smoothing_hints(self) -> dict[str, bool]:
        """Whether to smooth, by name."""
        return self._smooth

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values of a scalar belong to the last `window_size` iterations before its newest; at least one."""
        iterations = [at for _, at in self._history[name].values()]
        count = 0
        while count < len(iterations) and iterations[-1 - count] > iterations[-1] - window_size:
            count += 1
        return count

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Put "name/" before the names of scalars that are stored inside the block."""
        outside, self._prefix = self._prefix, f"{name.rstrip('/')}/"
        try:
            yield
        finally:
            self._prefix = outside

    def __enter__(self) -> Self:
        _entered.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        left = _entered.pop()
        assert left is self, "EventStorage blocks must be left in the reverse order of entering"

    def _at(self, iteration: int | None) -> int:
        return self.iter if iteration is None else iteration
