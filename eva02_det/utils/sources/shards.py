"""Images in tar shards, the layout that webdataset writes, by number: an index of offsets built once, then random access."""

import glob
import hashlib
import json
import logging
import os
import re
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from eva02_det.utils.errors import UserError
from eva02_det.utils.files import atomic_path, write_json
from eva02_det.utils.randomness import key_of
from eva02_det.utils.sources import remote
from eva02_det.utils.sources.base import EXTENSIONS, Source, index_folder, made_once

log = logging.getLogger(__name__)

INDEXED_AT_ONCE = 16  # shards; hides the latency of remote storage
OPEN_FILES = 64  # local shards that a process keeps open
BLOCK = 512  # bytes of a tar header, and the unit that contents are padded to
FORMAT = 1


def names_shards(spec: str) -> bool:
    """Whether a specification names tar shards."""
    return spec.endswith(".tar")


def expand(spec: str) -> list[str]:
    """The shards behind `a-{000..127}.tar`, `a-{x,y}.tar` or `a-*.tar`, in sorted order; UserError where a pattern finds none."""
    parts = re.split(r"\{([^{}]*)\}", spec)
    choices = [_choices(part) if number % 2 else [part] for number, part in enumerate(parts)]
    shards: list[str] = []
    for chosen in product(*choices):
        path = "".join(chosen)
        shards += _found(path) if any(sign in path for sign in "*?[") else [path]
    if not shards:
        raise UserError(f"no shard matches {spec}; check the pattern and that the files exist")
    return shards


def _choices(text: str) -> list[str]:
    """`000..127` -> every number, as wide as the first; `a,b` -> a and b."""
    span = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if span is None:
        return text.split(",")
    first, last = span.groups()
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]


def _found(pattern: str) -> list[str]:
    if not remote.is_remote(pattern):
        return sorted(glob.glob(os.path.expanduser(pattern)))
    files, inner = remote.file_system(pattern)
    prefix = pattern[: pattern.index("://") + 3]
    return sorted(path if remote.is_remote(path) else prefix + path.lstrip("/") for path in files.glob(inner))


class TarShards(Source):
    """Images in uncompressed tar files, in the order of the shards and of their members. Whatever is no image is passed by.

    An own index instead of webdataset's streams: there the order depends on shuffle buffers and on how shards fall to workers,
    so no position can be resumed exactly nor be the same for another number of workers. The files are webdataset's own.
    """

    def __init__(self, shards: list[str], folder: Path) -> None:
        self.shards, self.folder = shards, folder
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.digest = str(about["digest"])
        self._ends = np.cumsum(about["counts"])
        self._spans: NDArray[np.int64] | None = None
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()
        self._lock = threading.Lock()  # of _open: several threads read

    @classmethod
    def open(cls, shards: list[str], cache: str | Path | None = None) -> "TarShards":
        """The images of the shards, indexed if they are not yet. UserError for no images and for a shard that cannot be read."""
        shards = [s if remote.is_remote(s) else str(Path(s).expanduser().absolute()) for s in shards]
        folder = index_folder(cache, f"shards-{key_of(*shards):016x}")
        with ThreadPoolExecutor(INDEXED_AT_ONCE) as pool:
            made_of = {"format": FORMAT, "shards": shards, "states": list(pool.map(remote.state, shards))}

        def find() -> "TarShards | None":
            try:
                about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
            except (OSError, json.JSONDecodeError):
                return None
            return cls(shards, folder) if about.get("made_of") == made_of else None

        return made_once(folder, find, lambda: _write_index(folder, shards, made_of))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> bytes:
        shard, start, size = self._place(number)
        content = self._read(shard, start, start + size)
        if len(content) != size:
            raise OSError(f"{len(content)} of {size} bytes, the shard became shorter")
        return content

    def name(self, number: int) -> str:
        """`shard/member`; the member's place in the shard where the shard cannot be read any more."""
        shard, start, _ = self._place(number)
        try:
            member = tarfile.TarInfo.frombuf(self._read(shard, start - BLOCK, start), "utf-8", "surrogateescape").name
        except (OSError, tarfile.TarError):
            member = f"byte {start}"
        return f"{self.shards[shard]}/{member}"

    def shard_of(self, number: int) -> int:
        """In which of `shards` an image is."""
        return int(np.searchsorted(self._ends, number, side="right"))

    def __getstate__(self) -> dict[str, Any]:
        kept = {key: value for key, value in self.__dict__.items() if key != "_lock"}
        return {**kept, "_spans": None, "_open": OrderedDict()}  # a worker opens and maps what it needs

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def _place(self, number: int) -> tuple[int, int, int]:
        """(shard, first byte, bytes) of an image."""
        if self._spans is None:
            self._spans = np.memmap(self.folder / "spans.bin", dtype=np.int64, mode="r", shape=(len(self), 2))
        start, size = self._spans[number].tolist()
        return self.shard_of(number), start, size

    def _read(self, shard: int, start: int, end: int) -> bytes:
        path = self.shards[shard]
        if remote.is_remote(path):
            return remote.read_range(path, start, end)
        with self._lock:
            stream = self._open.pop(shard, None) or open(path, "rb", buffering=0)  # noqa: SIM115  kept for the next image
            self._open[shard] = stream
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)  # closed once no thread reads from it any more
        return os.pread(stream.fileno(), end - start, start)  # moves no position, so a forked worker may share the file


def _write_index(folder: Path, shards: list[str], made_of: dict[str, Any]) -> None:
    """spans.bin: int64 [N, 2], first byte and size of each image; about.json comes last and makes the index valid."""
    log.info("indexing %d shards, once; the index goes to %s", len(shards), folder)
    counts: list[int] = []
    digest = hashlib.blake2b(digest_size=16)  # of names and contents' places, not of where the shards lie
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "about.json").unlink(missing_ok=True)
    with ThreadPoolExecutor(INDEXED_AT_ONCE) as pool, atomic_path(folder / "spans.bin") as path, path.open("wb") as stream:
        for shard, spans in zip(shards, pool.map(_spans_of, shards)):
            counts.append(len(spans))
            digest.update(shard.rpartition("/")[2].encode() + b"\0" + spans.tobytes())
            stream.write(spans.tobytes())
    if not sum(counts):
        raise UserError(
            f"the {len(shards)} shards from {shards[0]} hold no image, no member in {', '.join(EXTENSIONS)}; check them"
        )
    write_json(folder / "about.json", {"made_of": made_of, "counts": counts, "digest": digest.hexdigest()})


def _spans_of(shard: str) -> NDArray[np.int64]:
    """First byte and size of the images in a shard: int64 [n, 2]. UserError for what is no whole, uncompressed tar file."""

    def members() -> list[tuple[int, int]]:
        with remote.opened(shard) as stream:
            return list(_members(stream))

    try:
        damaged = (tarfile.TarError, EOFError)
        found = remote.patiently(members, shard, final=damaged) if remote.is_remote(shard) else members()
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UserError(
            f"the shard {shard} cannot be read as an uncompressed tar file ({remote.reason(error)}); "
            "fetch or write it again, or leave it out"
        ) from error
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _members(stream: BinaryIO) -> Iterator[tuple[int, int]]:
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        while (member := archive.next()) is not None:
            vars(archive)["members"] = []  # tarfile would keep them all
            if member.isfile() and member.name.lower().endswith(EXTENSIONS) and not os.path.basename(member.name).startswith("."):
                yield member.offset_data, member.size
        # a file cut off between two members ends like a whole one, except for the block of zeros that closes an archive
        stream.seek(archive.offset)
        if stream.read(BLOCK) != bytes(BLOCK):
            raise tarfile.ReadError(f"broken off or damaged at byte {archive.offset}")
