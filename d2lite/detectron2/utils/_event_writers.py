"""Report the scalars of the current storage: as a line of text, as JSON lines, as TensorBoard files."""

from __future__ import annotations

import datetime
import json
import logging
import resource
import sys
import time
from functools import cached_property
from typing import Any

import torch

from ..utils.file_io import PathManager
from ._event_storage import EventStorage, get_event_storage


class EventWriter:
    """Something that writes what the current EventStorage holds."""

    def write(self) -> None:
        """Report now."""
        raise NotImplementedError

    def close(self) -> None:
        """Finish; nothing is written afterwards."""


class _NewScalars:
    """What came into the storage since the last look."""

    def __init__(self, window_size: int) -> None:
        self.window_size = window_size
        self._seen = -1  # newest iteration looked at

    def take(self, storage: EventStorage) -> list[tuple[str, float, int]]:
        """(name, value, iteration) of the scalars that are newer than at the last call."""
        latest = storage.latest_with_smoothing_hint(self.window_size)
        new = [(name, float(value), at) for name, (value, at) in latest.items() if at > self._seen]
        self._seen = max([self._seen, *(at for _, _, at in new)])
        return new


class JSONWriter(EventWriter):
    """One JSON object a line, one line an iteration, after what the file holds already."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        self._file = PathManager.open(json_file, "a")
        self._scalars = _NewScalars(window_size)

    def write(self) -> None:
        lines: dict[int, dict[str, Any]] = {}
        for name, value, at in self._scalars.take(get_event_storage()):
            lines.setdefault(at, {"iteration": at})[name] = value
        self._file.writelines(f"{json.dumps(lines[at], sort_keys=True)}\n" for at in sorted(lines))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """TensorBoard event files in `log_dir`; `kwargs` go to torch's SummaryWriter."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        self._options = {"log_dir": log_dir, **kwargs}
        self._scalars = _NewScalars(window_size)

    @cached_property
    def _writer(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and needed only once there is something to write

        return SummaryWriter(**self._options)

    def write(self) -> None:
        storage = get_event_storage()
        for name, value, at in self._scalars.take(storage):
            self._writer.add_scalar(name, value, at)
        for name, picture, at in storage.take_images():
            self._writer.add_image(name, picture, at)

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line: time to go, iteration, losses, times, learning rate, memory.

    max_iter: number of iterations of the run, for the time to go. window_size: iterations that medians look at.
    """

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._previous: tuple[int, float] | None = None  # iteration and moment of the last line

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # called once more after the end, when nothing is new
        losses = [self._median(storage, name, ".4g") for name in storage.histories() if "loss" in name]
        times = [self._median(storage, name, ".4f") for name in ("time", "data_time") if name in storage.histories()]
        parts = [*self._eta(storage), f"iter: {storage.iter}", *losses, *times, _learning_rate(storage), _memory()]
        self.logger.info(f" {'  '.join(parts)}")

    def _median(self, storage: EventStorage, name: str, form: str) -> str:
        value = storage.history(name).median(storage.count_samples(name, self._window_size))
        return f"{name}: {value:{form}}"

    def _eta(self, storage: EventStorage) -> list[str]:
        if self._max_iter is None:
            return []
        pace_s = self._seconds_per_iteration(storage)
        if pace_s is None:
            return []
        left_s = pace_s * (self._max_iter - storage.iter - 1)
        storage.put_scalar("eta_seconds", left_s, smoothing_hint=False)
        return [f"eta: {datetime.timedelta(seconds=int(left_s))}"]

    def _seconds_per_iteration(self, storage: EventStorage) -> float | None:
        """Median of the measured times, or the pace since the last line while there are none."""
        now, before = (storage.iter, time.perf_counter()), self._previous
        self._previous = now
        if "time" in storage.histories():
            return storage.history("time").median(1000)
        if before is None or now[0] <= before[0]:
            return None
        return (now[1] - before[1]) / (now[0] - before[0])


def _learning_rate(storage: EventStorage) -> str:
    return f"lr: {storage.history('lr').latest():.5g}" if "lr" in storage.histories() else "lr: N/A"


def _memory() -> str:
    """Peak memory of this process in MiB: on the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M"
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return f"max_mem: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f}M"
