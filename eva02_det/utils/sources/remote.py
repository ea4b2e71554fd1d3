"""Bytes of local files and of every address that fsspec reads, with a few patient retries for the latter."""

import logging
import os
import re
import time
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

from eva02_det.utils.errors import UserError

log = logging.getLogger(__name__)

TRIES = 4
FIRST_PAUSE_S = 0.5  # doubled after every failure
Answer = TypeVar("Answer")


def is_remote(path: str) -> bool:
    """Whether a path is an address (`scheme://...`, `cache::scheme://...`) and no local file."""
    return "://" in path


def file_system(address: str) -> tuple[Any, str]:
    """(fsspec file system, path in it); UserError where fsspec or the protocol's own package is missing."""
    try:
        import fsspec

        return fsspec.core.url_to_fs(address)
    except (ModuleNotFoundError, ImportError) as error:
        raise UserError(f"reading {address} needs `pip install fsspec[http]` or its protocol's package: {error}") from error
    except ValueError as error:
        raise UserError(f"cannot read {address}: {error}") from error


def opened(path: str) -> BinaryIO:
    """A file or address, open for reading; UserError where it cannot be opened."""
    try:
        if not is_remote(path):
            return open(path, "rb")
        files, inner = file_system(path)
        return patiently(lambda: files.open(inner, "rb", block_size=1 << 20), path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}; check that it exists and may be read") from error


def read(path: str) -> bytes:
    """All of a file or address; raises OSError."""
    if not is_remote(path):
        with open(path, "rb") as stream:
            return stream.read()
    files, inner = file_system(path)
    return patiently(lambda: files.cat_file(inner), path)


def read_range(path: str, start: int, end: int) -> bytes:
    """Bytes start to end of an address; raises OSError."""
    files, inner = file_system(path)
    return patiently(lambda: files.cat_file(inner, start=start, end=end), path)


def patiently(ask: Callable[[], Answer], what: str, final: tuple[type[Exception], ...] = ()) -> Answer:
    """The answer of `ask`, asked again after a pause where the storage fails; what is not there is not asked for twice.

    Raises OSError, whatever errors the storage's package has of its own; errors in `final` pass as they are.
    """
    through: tuple[type[Exception], ...] = (MemoryError, UserError, *final)
    for attempt in range(1, TRIES + 1):
        try:
            return ask()
        except through:
            raise
        except Exception as error:
            if attempt == TRIES or _is_final(error):
                if isinstance(error, OSError):
                    raise
                raise OSError(reason(error)) from error
            log.info("reading %s failed (%s), trying again", what, reason(error))
            time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
    raise AssertionError("not reached")


def _is_final(error: Exception) -> bool:
    """Whether asking again is useless: not there, or forbidden (http's 4xx, but for "timeout" and "too many requests")."""
    status = getattr(_origin(error), "status", None)
    if status is None:
        return isinstance(error, FileNotFoundError | PermissionError)
    return 400 <= status < 500 and status not in (408, 429)


def _origin(error: BaseException) -> BaseException:
    """What fsspec calls "not found" where a server gave another answer: that answer."""
    return error.__cause__ if error.__cause__ is not None and hasattr(error.__cause__, "status") else error


def state(path: str) -> list[Any]:
    """What changes when a file does: its size, and the time of its change or its checksum where the storage tells one."""
    if not is_remote(path):
        try:
            found = os.stat(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {reason(error)}; check that it exists and may be read") from error
        return [found.st_size, found.st_mtime_ns]
    files, inner = file_system(path)
    try:
        info = patiently(lambda: files.info(inner), path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}; check that it exists and may be read") from error
    return [info.get("size"), str(next((info[key] for key in ("ETag", "etag", "LastModified", "mtime") if key in info), ""))]


def reason(error: BaseException) -> str:
    """An error in a few words, the same ones each time it happens."""
    error = _origin(error)
    text = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
    return re.sub(r" ?<[^<>]* at 0x[0-9a-f]+>", "", text) or type(error).__name__  # Pillow names the buffer it read
