"""What every source of images offers, and the index folders that sources keep."""

import fcntl
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import torch.distributed as dist

from eva02_det.utils.errors import UserError

log = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
CACHE_VARIABLE = "EVA02_MIM_CACHE"
REMEDY = f"set {CACHE_VARIABLE} to a folder that can be written"


class Indexed(Protocol):
    """What an index folder gives."""

    @property
    def digest(self) -> str: ...


Made = TypeVar("Made", bound=Indexed)


class Source(ABC):
    """Encoded images by number. Picklable, cheap to copy into a worker process, and the same on every rank."""

    digest: str  # of the names and their order: a resumed run checks that it reads the same images

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, number: int) -> bytes:
        """The encoded image; raises OSError or what its storage raises where it cannot be read."""

    @abstractmethod
    def name(self, number: int) -> str:
        """What a person would look for to find the image."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Images of each part; one part unless the source is a mixture."""
        return (len(self),)

    @property
    def quotas(self) -> tuple[int, ...]:
        """Images of each part that an epoch takes."""
        return self.sizes


def index_folder(cache: str | Path | None, key: str) -> Path:
    """Where the index of a source lies: below `cache`, else $EVA02_MIM_CACHE, else the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "eva02_mim"
    return Path(cache or os.environ.get(CACHE_VARIABLE) or default).expanduser() / key


def made_once(folder: Path, find: Callable[[], Made | None], make: Callable[[], None]) -> Made:
    """What `find` finds in an index folder, after `make` where it finds nothing.

    Of all processes of a job the first makes it while the others wait; of unrelated processes one holds a lock.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return _made_alone(folder, find, make)
    found, problem = None, None
    if dist.get_rank() == 0:
        try:
            found = _made_alone(folder, find, make)
        except UserError as error:
            problem = str(error)
    told: list[str | None] = [problem, None if found is None else found.digest]
    dist.broadcast_object_list(told, src=0)  # also the signal that the index is there
    if told[0] is not None:
        raise UserError(told[0])
    if found is None:
        found = _made_alone(folder, find, make)  # a cache folder that each node has for itself is filled there
    if found.digest != told[1]:
        raise UserError(
            f"process {dist.get_rank()} sees other images than process 0 (index {folder}); "
            "make the copies of the data equal, or remove the index where it is out of date"
        )
    return found


def _made_alone(folder: Path, find: Callable[[], Made | None], make: Callable[[], None]) -> Made:
    if (found := find()) is not None:
        return found
    with _locked(folder):
        if (found := find()) is None:
            try:
                make()
            except OSError as error:
                raise UserError(f"cannot write the index {folder}: {error.strerror}; {REMEDY}") from error
            found = find()
    if found is None:
        raise UserError(f"the index {folder} changed while it was written; run again with a cache folder of your own")
    return found


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process of this machine at a time."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        stream = (folder.parent / f".{folder.name}.lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write the index {folder}: {error.strerror}; {REMEDY}") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError:
            log.info("no file locks in %s: an index may be written twice, the later one stays", folder.parent)
        yield
