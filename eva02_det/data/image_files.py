"""Image files before their pixels matter: whether they are there, how large they are, how they are to be turned.

Needs Pillow alone, so that a process that only opens images starts in no time.
"""

import os
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import IO

from PIL import ExifTags, Image, ImageOps

TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width
JPEG = (".jpg", ".jpeg")  # have 8 bits; only other files are looked into for more


class SourceImage:
    """An image whose header is read and whose pixels are not yet; upright, as its EXIF orientation says."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._picture = Image.open(stream)
        self._orientation = _orientation(self._picture)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        width, height = self._picture.size
        return (width, height) if self._orientation in TURNED else (height, width)

    @property
    def is_deep(self) -> bool:
        """Whether its pixels have more than 8 bits, of which Pillow's conversion would keep white."""
        return self._picture.mode.startswith(("I", "F"))

    def decode(self) -> Image.Image:
        """The RGB pixels; OSError or SyntaxError where the file is damaged."""
        upright = self._picture if self._orientation == 1 else ImageOps.exif_transpose(self._picture)
        upright.load()
        return upright if upright.mode == "RGB" else upright.convert("RGB")


def is_deep_image(path: str) -> bool:
    """Whether a file's pixels have more than 8 bits. Only headers of files that may are read; OSError for no image."""
    if path.lower().endswith(JPEG) or "://" in path:
        return False
    with open(path, "rb") as stream:
        return SourceImage(stream).is_deep


def absent_images(files: Iterable[str]) -> list[str]:
    """Those that do not exist. Each folder is listed once, which is cheap for a hundred thousand images."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for file in files:
        if "://" not in file:
            folder, _, name = file.rpartition(os.sep)
            by_folder[folder].append(name)
    return [os.path.join(folder, name) for folder, names in by_folder.items() for name in _absent(folder, names)]


def _absent(folder: str, names: list[str]) -> Iterator[str]:
    try:
        present = set(os.listdir(folder or "."))
    except (FileNotFoundError, NotADirectoryError):
        present = set()
    return (name for name in names if name not in present)


def _orientation(picture: Image.Image) -> int:
    try:
        return picture.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, struct.error):  # a damaged EXIF block says nothing of the pixels
        return 1
