"""Pictures as users have them: found on disk, read upright as RGB, resized as for an evaluation."""

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from eva02_det.data.mapper import ImageError
from eva02_det.utils.errors import UserError

Pixels = NDArray[np.uint8]  # [H, W, 3] RGB

PICTURES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".avif", ".jp2", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".pcx", ".ico"),
)
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp", ".mts", ".m2ts")
HALF_OF_16_BIT = 8


@dataclass(frozen=True)
class Picture:
    """A decoded picture, the way a viewer shows it."""

    pixels: Pixels
    notes: tuple[str, ...] = ()  # what was done to it while reading, in words


@dataclass(frozen=True)
class Preprocessing:
    """What lies between a picture and the model: the test loader's resize. The model itself normalises and pads.

    short_side_px and long_side_px: the short side is brought to the one, less where the long side would pass the other.
    """

    short_side_px: int
    long_side_px: int

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in px that the model sees; no side is ever 0."""
        new_height, new_width = T.ResizeShortestEdge.get_output_shape(height, width, self.short_side_px, self.long_side_px)
        return max(new_height, 1), max(new_width, 1)

    def record(self, pixels: Pixels, *, resize: bool = True) -> dict[str, Any]:
        """The model's input for one picture [H, W, 3]; detections come out in the pixels of that picture."""
        height, width = pixels.shape[:2]
        size = self.size_for(height, width) if resize else (height, width)
        resized = pixels if size == (height, width) else T.ResizeTransform(height, width, *size).apply_image(pixels)
        image = torch.from_numpy(np.array(resized.transpose(2, 0, 1), order="C"))
        return {"image": image, "height": height, "width": width}


@dataclass(frozen=True)
class Inputs:
    """Files to predict on. `names` are where the results of each go, without suffix and unique."""

    pictures: list[Path] = field(default_factory=list)
    videos: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)  # in a folder, but neither picture nor video by their names
    names: dict[Path, str] = field(default_factory=dict)


def find_inputs(given: Iterable[str | Path], *, without: str | Path | None = None) -> Inputs:
    """The files that were named, and those in folders (and their folders), sorted; a file that comes up twice counts once.

    A named file with an unknown suffix is taken for a picture. without: a folder whose files are left out, such as the one
    that results are written to. Raises UserError where a path does not exist or there is nothing at all.
    """
    found = Inputs()
    taken: set[str] = set()
    given = [Path(path) for path in given]
    for path in given:
        if not path.exists():
            raise UserError(f"{path} does not exist; give pictures, videos or folders of them")
        for file in _files(path, without):
            if file in found.names:
                continue
            suffix = file.suffix.lower()
            if suffix not in (*PICTURES, *VIDEOS) and path.is_dir():
                found.others.append(file)
                continue
            (found.videos if suffix in VIDEOS else found.pictures).append(file)
            found.names[file] = _unique(file.relative_to(path if path.is_dir() else path.parent), taken)
    if not found.names:
        where = ", ".join(map(str, given))
        raise UserError(f"there is no picture and no video in {where}; known are {' '.join(PICTURES + VIDEOS)}")
    return found


def read_picture(source: str | Path | Image.Image) -> Picture:
    """A file, or a picture of Pillow's, upright and as 8-bit RGB. ImageError, which names the file, where it cannot be read."""
    if isinstance(source, Image.Image):
        return _decode(source, "the picture given")
    try:
        with Image.open(source) as image:
            return _decode(image, str(source))
    except FileNotFoundError as error:
        raise ImageError(f"picture {source} does not exist; correct its path") from error
    # Pillow reports a damaged PNG as a SyntaxError
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"picture {source} cannot be decoded ({_reason(error)}); copy or download it again") from error


def _decode(image: Image.Image, name: str) -> Picture:
    notes = []
    if getattr(image, "n_frames", 1) > 1:
        notes.append(f"the first of {image.n_frames} frames is used")
    upright, turn = _upright(image)
    notes += [turn] if turn else []
    if upright.mode in ("F", "I") and image.format != "PNG":
        raise ImageError(f"picture {name} has 32-bit values of unknown range; save it with 8 or 16 bits a channel")
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        notes.append("16 bits a channel, of which the upper 8 are used")
        gray = (np.asarray(upright) >> HALF_OF_16_BIT).astype(np.uint8)
        return Picture(np.repeat(gray[..., None], 3, axis=2), tuple(notes))
    if _lowest_alpha(upright) < 255:
        notes.append("transparency is ignored")
    return Picture(np.asarray(upright.convert("RGB")), tuple(notes))


def _upright(image: Image.Image) -> tuple[Image.Image, str]:
    """The picture turned as its EXIF orientation says, and that in words."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation not in range(2, 9):
            return image, ""
        return ImageOps.exif_transpose(image), f"turned upright (EXIF orientation {orientation}), and coordinates are of that"
    except (SyntaxError, ValueError, TypeError, struct.error):  # a damaged EXIF block says nothing of the pixels
        return image, ""


def _lowest_alpha(image: Image.Image) -> int:
    """0 (somewhere transparent) to 255 (opaque or without alpha)."""
    if "A" not in image.getbands():
        return 0 if "transparency" in image.info else 255
    return int(image.getchannel("A").getextrema()[0])


def _files(path: Path, without: str | Path | None) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    skipped = None if without is None else Path(without).resolve()
    for folder, folders, names in os.walk(path, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and (Path(folder) / name).resolve() != skipped)
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))


def _unique(file: Path, taken: set[str]) -> str:
    """Path without suffix; with it where another file has that name already (x.png beside x.jpg), numbered if need be."""
    plain, whole = file.with_suffix("").as_posix(), file.as_posix()
    names = chain([plain, whole], (f"{whole}_{number}" for number in count(2)))
    name = next(name for name in names if name.lower() not in taken)
    taken.add(name.lower())
    return name


def _reason(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
