"""Images that an annotation file lists: read as a stream, kept as a mapped index, with or without the image files."""

import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from eva02_det.data.lvis import relative_path
from eva02_det.data.objects365 import ImageFinder
from eva02_det.utils.errors import UserError
from eva02_det.utils.randomness import key_of
from eva02_det.utils.sources import remote
from eva02_det.utils.sources.base import Source, index_folder, made_once
from eva02_det.utils.sources.packed import PackedNames, read_packed, write_packed

log = logging.getLogger(__name__)

REPORT_EVERY = 500_000
_COCO_HOST = re.compile(r"://[^/]*\b(?:mscoco\.org|cocodataset\.org)/", re.IGNORECASE)
_COCO_NAME = re.compile(r"(?:^|/)COCO_(?:train|val|test)20\d\d_(\d{12})\.\w+$")
_NUMBER = re.compile(r"(?:^|[/_])0*(\d+)\.\w+$")
_OBJECTS365 = re.compile(r"(?:^|/)(objects365_v\d_\d{8})\.\w+$", re.IGNORECASE)
_FLICKR = re.compile(r"flickr\.com/(?:.*/)?(\d{5,})_[0-9a-f]+(?:_\w)?\.\w+$", re.IGNORECASE)


class Entry(NamedTuple):
    """What an annotation file tells of an image.

    identity: the same for all data sets that share their images' ids, such as "coco/391895"; None where the id is the file's own.
    address: of the web, without what differs between copies of one photograph; "" where none is told.
    """

    id: int | str
    file: str
    identity: str | None
    address: str


def entry_of(image: dict[str, Any], *, coco_ids: bool = False, lvis: bool = False) -> Entry:
    """The facts of an entry of `images`. coco_ids: its ids are known to be COCO's; lvis: its images lie in COCO's folders.

    KeyError where id or name are missing.
    """
    file = relative_path(image) if lvis or "file_name" not in image else str(image["file_name"])
    return Entry(image["id"], file, _identity(image, file, coco_ids), _address(image))


def _identity(image: dict[str, Any], file: str, coco_ids: bool) -> str | None:
    """COCO's ids count only where the file says that they are COCO's: numbers such as 1 are everybody's."""
    number, url = image["id"], str(image.get("coco_url", ""))
    if found := _OBJECTS365.search(file):
        return f"objects365/{found[1].lower()}"
    named = _NUMBER.search(url) if _COCO_HOST.search(url) else _COCO_NAME.search(file)
    if coco_ids or (named and int(named[1]) == number):
        return f"coco/{number}"
    return None


def _address(image: dict[str, Any]) -> str:
    """Flickr gives a photograph one number, whatever its size and server; other addresses count as they are."""
    url = str(image.get("flickr_url") or image.get("url") or "")
    if found := _FLICKR.search(url):
        return f"flickr/{found[1]}"
    host, slash, path = url.rpartition("://")[2].partition("/")
    return f"{host.lower().removeprefix('www.')}/{path}" if slash and path else ""


@dataclass(frozen=True)
class Place:
    """Where an annotation file and its images are, and how it names them; see `entry_of`.

    split: of Objects365, whose images lie in several layouts.
    """

    json_file: str
    image_root: str | None = None
    coco_ids: bool = False
    split: str | None = None
    lvis: bool = False


class Listing(Source):
    """The images of an annotation file, by their place in it. Picklable: a worker maps the index."""

    def __init__(self, place: Place, lines: PackedNames) -> None:
        self.place, self.lines, self.digest = place, lines, lines.digest
        self.has_images = place.image_root is not None and os.path.isdir(place.image_root)

    @classmethod
    def open(cls, place: Place, cache: str | Path | None = None) -> "Listing":
        """Indexed if it is not yet. UserError for a file that is not there, is no JSON, or lists no images."""
        made_of = {"file": place.json_file, "state": remote.state(place.json_file), "kind": [place.coco_ids, place.lvis]}
        folder = index_folder(cache, f"listing-{key_of(str(Path(place.json_file).absolute()), *made_of['kind']):016x}")
        lines = made_once(folder, lambda: read_packed(folder, made_of), lambda: _write(folder, place, made_of))
        return cls(place, lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, number: int) -> bytes:
        return remote.read(self.path(number))

    def name(self, number: int) -> str:
        """As the file says; of LVIS, which names no files, that below COCO's folder."""
        return self.entry(number).file

    def entry(self, number: int) -> Entry:
        """The facts of an image."""
        return Entry(*json.loads(self.lines[number]))

    def path(self, number: int) -> str:
        """Where the image lies; OSError where nobody said where the images are."""
        if self.place.image_root is None:
            raise OSError("the folder of the images was not given")
        return self._locate(self.entry(number).file)

    @cached_property
    def _locate(self) -> Callable[[str], str]:
        return locator(self.place)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_locate"}


def locator(place: Place) -> Callable[[str], str]:
    """From an image's name in an annotation file to where it lies."""
    root = place.image_root or ""
    if not place.split:
        return partial(os.path.join, root)
    find = ImageFinder(Path(root), place.split)
    return lambda file: str(find(file))


def stream(json_file: str, section: str, *, whole: bool = False) -> Iterator[Any]:
    """The entries of a top-level list of a JSON file, one by one; whole: the value itself, alone. UserError for no JSON."""
    with _parsed(json_file) as (ijson, content):
        yield from ijson.items(content, section if whole else f"{section}.item", use_float=True)


def top_level_keys(json_file: str) -> list[str]:
    """Of a JSON object, in its order."""
    with _parsed(json_file) as (ijson, content):
        return [value for prefix, event, value in ijson.parse(content) if event == "map_key" and not prefix]


@contextmanager
def _parsed(json_file: str) -> Iterator[tuple[Any, BinaryIO]]:
    """(ijson, the open file); what ijson does not understand ends in a UserError."""
    try:
        import ijson
    except ModuleNotFoundError as error:
        raise UserError("annotation files are read as a stream by ijson; pip install 'eva02-det[contamination]'") from error
    with remote.opened(json_file) as content:
        try:
            yield ijson, content
        except ijson.JSONError as error:
            text = " ".join(str(error).partition("\n")[0].split())
            raise UserError(f"{json_file}: not valid JSON ({text}); write or download the annotations again") from error


def _write(folder: Path, place: Place, made_of: dict[str, Any]) -> None:
    log.info("reading the images of %s, once; the index goes to %s", place.json_file, folder)
    if not write_packed(folder, _lines(place), made_of):
        (folder / "about.json").unlink()
        raise UserError(f"{place.json_file} has no list 'images', or an empty one; give an annotation file in COCO's format")


def _lines(place: Place) -> Iterator[bytes]:
    for number, image in enumerate(stream(place.json_file, "images")):
        try:
            yield json.dumps(entry_of(image, coco_ids=place.coco_ids, lvis=place.lvis)).encode()
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{place.json_file}: entry {number} of 'images' has no 'id', or neither 'file_name' nor 'coco_url'; "
                "give an annotation file in COCO's format"
            ) from error
        if (number + 1) % REPORT_EVERY == 0:
            log.info("%s: %d images so far", place.json_file, number + 1)
