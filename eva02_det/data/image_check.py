"""Opens the images of a data set in several processes and says which are missing, broken or of another size than stated."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing import get_context

from PIL import Image

from eva02_det.data.image_files import SourceImage, absent_images

CHUNK = 256  # images handed to a process at a time

Stated = tuple[str, int, int]  # path, height, width


@dataclass(frozen=True)
class ImageFault:
    """kind: "missing", "broken", "wrong size" or "16 bit"; detail: what was found there."""

    path: str
    kind: str
    detail: str = ""


def check_images(images: Iterable[Stated], *, depth: str = "header", workers: int = 4) -> Iterator[ImageFault]:
    """What is wrong with images. depth: "exists" only looks for the files, "header" reads sizes, "decode" every pixel."""
    stated = list(images)
    missing = set(absent_images(path for path, _, _ in stated))
    yield from (ImageFault(path, "missing") for path in sorted(missing))
    if depth == "exists":
        return
    present = [one for one in stated if one[0] not in missing and "://" not in one[0]]
    chunks = [present[start : start + CHUNK] for start in range(0, len(present), CHUNK)]
    check = partial(_check_chunk, decode=depth == "decode")
    if min(workers, len(chunks)) < 2:
        yield from chain.from_iterable(map(check, chunks))
        return
    # forked children would inherit the locks of whatever threads run here
    with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=get_context("spawn")) as pool:
        yield from chain.from_iterable(pool.map(check, chunks))


def by_kind(faults: Iterable[ImageFault]) -> dict[str, list[ImageFault]]:
    """Faults sorted into their kinds."""
    kinds: dict[str, list[ImageFault]] = defaultdict(list)
    for fault in faults:
        kinds[fault.kind].append(fault)
    return dict(kinds)


def _check_chunk(images: list[Stated], decode: bool) -> list[ImageFault]:
    return [fault for image in images for fault in _check_image(*image, decode=decode)]


def _check_image(path: str, height: int, width: int, decode: bool) -> Iterator[ImageFault]:
    try:
        with open(path, "rb") as stream:
            image = SourceImage(stream)
            if image.size != (height, width):
                yield ImageFault(path, "wrong size", f"{image.size[1]} x {image.size[0]}, stated {width} x {height}")
            if image.is_deep:
                yield ImageFault(path, "16 bit", "convert it to 8 bits")
            if decode:
                image.decode()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        yield ImageFault(path, "broken", " ".join(str(error).split()) or f"{os.path.getsize(path)} bytes")
