"""A list of Python objects in one read-only memory file, which workers and the ranks of a machine map instead of copying."""

import hashlib
import io
import mmap
import os
import pickle
import socket
import tempfile
from collections.abc import Iterable
from multiprocessing import context, reduction
from typing import Any

import numpy as np
import torch.distributed as dist

# Python's reference counts would otherwise turn every page of a plain list that a forked worker reads into a private copy.


class SharedList:
    """Read-only list; each access unpickles one item.

    Forked workers inherit the mapping, spawned ones receive the open file, and the ranks of one machine that hold equal
    contents agree through the process group's store on one copy. Nothing waits for anybody: a rank may build a list alone.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        sizes, buffer = [0], io.BytesIO()
        for item in items:
            sizes.append(buffer.write(pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL)))
        self.ends = np.cumsum(sizes)
        contents = buffer.getbuffer()
        name = "records-" + hashlib.sha256(contents).hexdigest()[:32]
        self._map(_open_copy(name, contents))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        return pickle.loads(memoryview(self.memory)[self.ends[index] : self.ends[index + 1]])

    def _map(self, file: int) -> None:
        self.file = file
        # an empty file cannot be mapped
        self.memory = mmap.mmap(file, int(self.ends[-1]), access=mmap.ACCESS_READ) if self.ends[-1] else b""

    def __getstate__(self) -> dict[str, Any]:
        if context.get_spawning_popen() is None:  # a copy for somebody who does not inherit our open files
            return {"ends": self.ends, "contents": bytes(self.memory)}
        return {"ends": self.ends, "handed_over": reduction.DupFd(self.file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.ends = state["ends"]
        self._map(state["handed_over"].detach() if "handed_over" in state else _write_copy("records", state["contents"]))

    def __del__(self) -> None:
        if "file" in vars(self):
            os.close(self.file)


def _write_copy(name: str, contents: "bytes | memoryview") -> int:
    """A file that has no place in any folder and vanishes with its last user; the descriptor."""
    if hasattr(os, "memfd_create"):  # Linux; not bounded by the size of /dev/shm, which containers keep small
        file = os.memfd_create(name)
    else:
        with tempfile.TemporaryFile() as handle:
            file = os.dup(handle.fileno())
    with open(file, "wb", closefd=False) as handle:
        handle.write(contents)
    return file


def _open_copy(name: str, contents: memoryview) -> int:
    """The first copy that a rank of this machine wrote under this name, our own if we are the first."""
    own = _write_copy(name, contents)
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return own
    store = dist.distributed_c10d._get_default_store()
    address = f"/proc/{os.getpid()}/fd/{own}"
    first = store.compare_set(f"{socket.gethostname()}/{name}", "", address).decode()
    if first == address:
        return own
    try:
        # the owner may have closed it since and opened something else under the same number
        if name not in os.readlink(first):
            return own
        shared = os.open(first, os.O_RDONLY)
    except OSError:  # the owner has ended, or the system hides processes from each other
        return own
    os.close(own)
    return shared
