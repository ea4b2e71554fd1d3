"""Millions of file names in two mapped files: read where needed, shared by all processes, nothing unpacked in memory."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eva02_det.utils.files import atomic_path, write_json

# An index is a folder: names.bin (the names one after the other), offsets.bin (int64 [N + 1], where each begins) and
# about.json (how many, a digest of all names, and what the index was made of).
FORMAT = 1


class PackedNames:
    """A read-only sequence of byte strings in an index folder. It is mapped on first use, in every process anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about: dict[str, Any] = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self._maps: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return int(self.about["count"])

    def __getitem__(self, number: int) -> bytes:
        names, offsets = self._mapped()
        return names[offsets[number] : offsets[number + 1]].tobytes()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": None}  # a worker maps the files itself instead of getting a copy

    @property
    def digest(self) -> str:
        """A digest of all names in their order."""
        return str(self.about["digest"])

    def _mapped(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        if self._maps is None:
            names = np.memmap(self.folder / "names.bin", dtype=np.uint8, mode="r")
            offsets = np.memmap(self.folder / "offsets.bin", dtype=np.int64, mode="r", shape=(len(self) + 1,))
            self._maps = names, offsets
        return self._maps


def write_packed(folder: Path, names: Iterable[bytes], made_of: dict[str, Any]) -> int:
    """Write an index of `names`, which are taken one by one; about.json comes last and makes it valid. Returns their number."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "about.json").unlink(missing_ok=True)
    digest, count, position = hashlib.blake2b(digest_size=16), 0, 0
    with (
        atomic_path(folder / "names.bin") as names_path,
        atomic_path(folder / "offsets.bin") as offsets_path,
        names_path.open("wb") as names_file,
        offsets_path.open("wb") as offsets_file,
    ):
        offsets_file.write(position.to_bytes(8, "little"))
        for name in names:
            names_file.write(name)
            digest.update(name + b"\0")
            position, count = position + len(name), count + 1
            offsets_file.write(position.to_bytes(8, "little"))
    write_json(folder / "about.json", {"count": count, "digest": digest.hexdigest(), "made_of": made_of, "format": FORMAT})
    return count


def read_packed(folder: Path, made_of: dict[str, Any]) -> PackedNames | None:
    """The index in `folder`, or None where there is none or it was made of something else."""
    try:
        packed = PackedNames(folder)
    except (OSError, json.JSONDecodeError):
        return None
    return packed if packed.about.get("made_of") == made_of and packed.about.get("format") == FORMAT else None
