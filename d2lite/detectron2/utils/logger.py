"""Loggers of a run, one file per process, and messages that are not repeated."""

import functools
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import IO, Any

from tabulate import tabulate
from termcolor import colored

from .file_io import PathManager

__all__ = ["create_small_table", "log_every_n_seconds", "log_first_n", "setup_logger"]

_DATES = "%m/%d %H:%M:%S"
_PLAIN = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=_DATES)
_seen: Counter[tuple[object, ...]] = Counter()
_last_said: dict[tuple[object, ...], float] = {}


@functools.cache  # a second call for the same logger would make it say everything twice
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """The logger `name`, which speaks on the screen in the first process, and writes to a file in every one.

    output: a file (.txt or .log), or a folder for log.txt; other processes append ".rank1" and so on. None: no file.
    color: colours, and short names, on the screen. abbrev_name: the short name; by default "d2" for detectron2.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    short = abbrev_name if abbrev_name is not None else {"detectron2": "d2"}.get(name, name)
    if configure_stdout and distributed_rank == 0:
        logger.addHandler(_handler(sys.stdout, _Colored(name, short) if color else _PLAIN))
    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        path += f".rank{distributed_rank}" if distributed_rank else ""
        PathManager.mkdirs(os.path.dirname(path) or ".")
        logger.addHandler(_handler(_open_log(path), _PLAIN))
    return logger


class _Colored(logging.Formatter):
    """Green time and short name before the message; warnings and errors in yellow and red."""

    def __init__(self, name: str, short: str) -> None:
        super().__init__(colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s", datefmt=_DATES)
        self._name, self._short = name, short

    def format(self, record: logging.LogRecord) -> str:
        shown = logging.makeLogRecord(vars(record))
        if record.name == self._name or record.name.startswith(f"{self._name}."):
            shown.name = f"{self._short}{record.name[len(self._name) :]}".lstrip(".")
        line = super().format(shown)
        if record.levelno < logging.WARNING:
            return line
        return f"{colored(record.levelname, 'red' if record.levelno > logging.WARNING else 'yellow')} {line}"


def _handler(stream: IO[str], formatter: logging.Formatter) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(formatter)
    return handler


@functools.cache  # several loggers share one stream to a file
def _open_log(path: str) -> IO[str]:
    return PathManager.open(path, "a", buffering=1)  # line by line, so that a killed run has said all it did


def log_first_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None, key: str | tuple[str, ...] = "caller") -> None:
    """Log the first `n` times only.

    key: what counts as a repetition: "caller" (the line that calls), "message", or both.
    """
    kinds = (key,) if isinstance(key, str) else tuple(key)
    place, module = _caller()
    repeated: tuple[object, ...] = (*(place if "caller" in kinds else ()), *((msg,) if "message" in kinds else ()))
    _seen[repeated] += 1
    if _seen[repeated] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl: int, msg: str, n: float = 1, *, name: str | None = None) -> None:
    """Log unless the same line of code logged less than `n` seconds ago."""
    place, module = _caller()
    now = time.monotonic()
    if now - _last_said.get(place, -float("inf")) >= n:
        _last_said[place] = now
        logging.getLogger(name or module).log(lvl, msg)


def _caller() -> tuple[tuple[str, int], str]:
    """Place (file, line) and module of the first frame outside this file."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    module = frame.f_globals.get("__name__", "detectron2")
    return (frame.f_code.co_filename, frame.f_lineno), "detectron2" if module == "__main__" else module


def create_small_table(small_dict: Mapping[str, Any]) -> str:
    """A dict as a table of one row under its keys."""
    row, names = list(small_dict.values()), list(small_dict)
    return tabulate([row], headers=names, tablefmt="pipe", floatfmt=".3f", stralign="center", numalign="center")
