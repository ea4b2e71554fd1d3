"""Loggers of a run: the screen for the first process, one file for each."""

import functools
import logging
import os
import sys
from typing import IO

from termcolor import colored

from .file_io import PathManager

__all__ = ["setup_logger"]

_DATES = "%m/%d %H:%M:%S"
_PLAIN = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=_DATES)


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
