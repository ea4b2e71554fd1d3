"""How many images show each class, read from the annotation file when somebody asks."""

import json
import mmap
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from eva02_det.utils.errors import UserError

WINDOW = 1 << 20  # bytes read at first after a section's name

Count = dict[str, int]


@dataclass(frozen=True)
class ImageCounts(Sequence[Count]):
    """[{"id", "image_count"}, ...] of an annotation file, the form of detectron2's `class_image_count`.

    Registering a data set thus costs nothing; the file is opened when a model with the federated loss is built.
    """

    json_file: str

    def __len__(self) -> int:
        return len(self._counts)

    def __getitem__(self, index: Any) -> Any:
        return self._counts[index]

    def __iter__(self) -> Iterator[Count]:
        return iter(self._counts)

    @property
    def _counts(self) -> tuple[Count, ...]:
        try:
            stamp = os.stat(self.json_file).st_mtime_ns
        except OSError as error:
            raise UserError(
                f"the federated loss needs the image counts of {self.json_file}, which does not exist; download it, or set "
                "DETECTRON2_DATASETS to the folder that holds the data sets"
            ) from error
        return _read_counts(self.json_file, stamp)


def image_counts(categories: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]] | None) -> list[Count] | None:
    """`image_count` as the categories state it, else counted from the annotations; None where neither can tell."""
    if categories and all("image_count" in category for category in categories):
        return [{"id": category["id"], "image_count": category["image_count"]} for category in categories]
    if annotations is None:
        return None
    shown = {(annotation["image_id"], annotation["category_id"]) for annotation in annotations}
    counts = Counter(category for _, category in shown)
    return [{"id": category["id"], "image_count": counts[category["id"]]} for category in categories]


def read_categories(json_file: str | Path) -> list[dict[str, Any]] | None:
    """The categories of an annotation file without parsing the gigabyte of annotations beside them; None if not found so."""
    with open(json_file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = content.find(b'"categories"')
        while place >= 0:
            found = _section(content, place + len(b'"categories"'))
            if isinstance(found, list) and all(isinstance(one, dict) and {"id", "name"} <= set(one) for one in found):
                return found
            place = content.find(b'"categories"', place + 1)
    return None


@lru_cache(maxsize=8)
def _read_counts(json_file: str, _stamp: int) -> tuple[Count, ...]:
    try:
        categories = read_categories(json_file)
        counts = image_counts(categories, None) if categories else None
        if counts is None:
            content = json.loads(Path(json_file).read_text(encoding="utf-8"))
            counts = image_counts(content["categories"], content["annotations"])
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{json_file}: no image counts can be read ({reason}); correct the file") from error
    return tuple(counts or ())


def _section(content: mmap.mmap, start: int) -> Any:
    """The JSON value after a key that ends at `start`; None where there is none."""
    decoder, window = json.JSONDecoder(), WINDOW
    while True:
        text = content[start : start + window].decode("utf-8", errors="replace").lstrip()
        if not text.startswith(":"):
            return None
        try:
            return decoder.raw_decode(text[1:].lstrip())[0]
        except json.JSONDecodeError:
            # cut off in the middle, as long as there is more to read
            if start + window >= len(content):
                return None
            window *= 4
