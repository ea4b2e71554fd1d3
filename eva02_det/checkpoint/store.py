"""The checkpoints of a run in their folder: each whole or not there, checked before use, written beside the training if wanted.

Policy where a checkpoint cannot be written (disk full, quota, a file system that is away): those that exist stay as they are, the
unfinished part is removed, a warning says so and training goes on; only one that the run ends with is an error.
"""

import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from eva02_det.checkpoint.host import HostCopies
from eva02_det.checkpoint.integrity import damage
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import atomic_path, sync_folder, write_text

DAMAGED = ".damaged"
FULL = (errno.ENOSPC, errno.EDQUOT)
logger = logging.getLogger(__name__)


def check_retention(node: str, keep: int | None, every: int | None, *, key: str = "keep") -> None:
    """UserError for numbers of a config's `node` that no checkpoint could be kept by."""
    if keep is not None and keep < 1:
        raise UserError(f"{node}.{key}={keep} keeps nothing to resume from; set 1 or more, or null for all")
    if every is not None and every < 1:
        raise UserError(f"{node}.every={every} must be at least 1 step, or null to keep the last ones only")


class CheckpointStore:
    """Files `<prefix><number, 7 digits><suffix>` of a folder, and others by their own name. One process of a run has it.

    Args:
        keep: so many numbered files stay, the newest; None: all.
        every: beside them, for good, the first file at or after each multiple of so many steps.
        asynchronous: `write` copies the content to host memory and returns; a thread writes. One write is in flight at most.
        offset: steps done, less the number in the name.
        pointer: name of a text file that names the newest checkpoint; "" for none. It may be changed by hand to go back.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        prefix: str,
        suffix: str,
        keep: int | None = None,
        every: int | None = None,
        asynchronous: bool = False,
        offset: int = 0,
        pointer: str = "",
    ) -> None:
        self.folder, self.prefix, self.suffix = Path(folder), prefix, suffix
        self.keep, self.every, self.offset, self.pointer = keep, every, offset, pointer
        self._numbered = re.compile(rf"{re.escape(prefix)}(\d+){re.escape(suffix)}")
        self._copies = HostCopies() if asynchronous else None
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def path_of(self, name: int | str) -> Path:
        """Of a number, or of a name without suffix."""
        stem = name if isinstance(name, str) else f"{self.prefix}{name:07d}"
        return self.folder / f"{stem}{self.suffix}"

    def files(self) -> list[Path]:
        """The numbered checkpoints, oldest first."""
        return [path for _, path in self._pairs()]

    def has_any(self) -> bool:
        """Whether there is a checkpoint to resume from, whole or not."""
        return bool(self._newest_first())

    def newest(self) -> Path | None:
        """The newest checkpoint whose checksums agree, None where there is no checkpoint. Reads the whole file.

        Damaged ones that are newer are named in a warning and set aside under another name, so that what the run writes from
        here on is newest again.

        Raises:
            UserError: where there are some and none is whole.
        """
        damaged: list[tuple[Path, str]] = []
        for path in self._newest_first():
            reason = damage(path)
            if reason is None:
                for other, why in damaged:
                    self._set_aside(other, why, path)
                if not damaged and self._named() not in (None, path):
                    logger.warning("%s is not there, a killed run did not finish it; %s is the newest", self._named(), path)
                return path
            damaged.append((path, reason))
        if damaged:
            listed = "; ".join(f"{path.name}: {why}" for path, why in damaged)
            raise UserError(
                f"no checkpoint in {self.folder} is whole ({listed}); copy a whole one there, or start anew in another "
                f"train.output_dir"
            )
        return None

    def write(self, name: int | str, content: Mapping[str, Any], *, required: bool = False) -> None:
        """Write a checkpoint, once the one before is written; then remove old ones.

        required: written before this returns, and UserError where it cannot be. Else what cannot be written is a warning, and an
        error that is not the disk's, of a write beside the training, is raised by the next `check`, `write` or `wait`.
        """
        self.wait()
        target = self.path_of(name)
        if self._copies is None or required:
            self._write(target, content, required)
            return
        self._thread = self._thread or ThreadPoolExecutor(1, "checkpoint")  # joined when the process ends
        self._writing = self._thread.submit(self._write, target, self._copies.take(content), False)

    def check(self) -> None:
        """Raise what went wrong in a write beside the training that has ended; does not wait."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Until nothing is being written; raises what went wrong."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def remove_leftovers(self) -> None:
        """Parts of files that a killed run did not finish."""
        for name in (f"*{self.suffix}", self.pointer):
            for part in self.folder.glob(f".{name}.*.part") if name else ():
                part.unlink(missing_ok=True)

    def _write(self, target: Path, content: Mapping[str, Any], required: bool) -> None:
        since = time.perf_counter()
        try:
            self._put(target, content)
        except (OSError, RuntimeError) as error:
            reason = _of_the_disk(error)
            if reason is None:
                raise
            said = self._refusal(target, content, reason)
            if required:
                raise UserError(f"{said}; make room and pass --resume") from error
            logger.warning("%s; training goes on, and the next save tries again; make room before it", said)
            return
        logger.info("saved %s (%.3g MiB in %.1f s)", target, target.stat().st_size / 2**20, time.perf_counter() - since)
        self._remove_old(target)

    def _put(self, target: Path, content: Mapping[str, Any]) -> None:
        """Beside, to the disk, and into place. The pointer changes when all is on the disk and the name is not yet there."""
        with atomic_path(target) as beside:
            with beside.open("wb") as stream:  # torch tells what went wrong only of a stream
                torch.save(content, stream)
                stream.flush()
                os.fsync(stream.fileno())
            if self.pointer:
                write_text(self.folder / self.pointer, target.name)
        sync_folder(self.folder)

    def _refusal(self, target: Path, content: Mapping[str, Any], reason: OSError) -> str:
        room = ""
        if reason.errno in FULL:
            free = shutil.disk_usage(self.folder).free / 2**20
            room = f" ({free:,.0f} MiB are free there, {_mib(content):,.0f} MiB are needed)"
        others = [path for path in self._newest_first() if path != target]
        kept = f"the newest checkpoint is still {others[0]}" if others else "there is no checkpoint yet"
        return f"checkpoint {target} could not be written: {reason.strerror or reason}{room}; {kept}"

    def _remove_old(self, written: Path) -> None:
        """Files of later numbers than the one written are another's, who went back by hand: they stay and do not count."""
        match = self._numbered.fullmatch(written.name)
        if self.keep is None or match is None:
            return
        pairs = [(number, path) for number, path in self._pairs() if number <= int(match[1])]
        lasting = first_of_each([number + self.offset for number, _ in pairs], self.every)
        for number, path in pairs[: -self.keep]:
            if number + self.offset not in lasting:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    logger.warning("the old checkpoint %s could not be removed: %s", path, error.strerror)

    def _pairs(self) -> list[tuple[int, Path]]:
        paths = self.folder.glob(f"{self.prefix}*{self.suffix}")
        return sorted((int(match[1]), path) for path in paths if (match := self._numbered.fullmatch(path.name)))

    def _newest_first(self) -> list[Path]:
        """What can be resumed from: the one that the pointer names, and what is older than that."""
        pairs = self._pairs()[::-1]
        numbered = [path for _, path in pairs]
        named = self._named()
        if named is None:
            return numbered
        match = self._numbered.fullmatch(named.name)
        older = [path for number, path in pairs if number < int(match[1])] if match else numbered
        if not named.is_file():  # a run was killed before it moved the file into place, or somebody removed it
            return older or numbered
        return [named, *older]

    def _named(self) -> Path | None:
        """What the pointer names, None where there is no pointer."""
        file = self.folder / self.pointer
        return self.folder / file.read_text(encoding="utf-8").strip() if self.pointer and file.is_file() else None

    def _set_aside(self, path: Path, why: str, used: Path) -> None:
        aside = path.with_name(path.name + DAMAGED)
        try:
            path.replace(aside)
            where = f"set aside as {aside.name}"
        except OSError as error:
            where = f"left where it is ({error.strerror})"
        logger.warning("checkpoint %s is damaged (%s) and %s; %s is used instead", path, why, where, used)


def first_of_each(steps: Sequence[int], every: int | None) -> set[int]:
    """Of ascending numbers of steps, the first at or after each multiple of `every`."""
    lasting: set[int] = set()
    if every is not None:
        reached = 0
        for step in steps:
            if step // every > reached:
                reached = step // every
                lasting.add(step)
    return lasting


def _of_the_disk(error: BaseException) -> OSError | None:
    """The OSError that `error` is or came from; torch's writer raises a RuntimeError of its own over it."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__cause__ or seen.__context__
    return seen


def _mib(content: Any) -> float:
    """Of the tensors in nested containers."""
    if isinstance(content, torch.Tensor):
        return content.nbytes / 2**20
    if isinstance(content, Mapping):
        return sum(_mib(inner) for inner in content.values())
    return sum(_mib(inner) for inner in content) if isinstance(content, list | tuple) else 0.0
