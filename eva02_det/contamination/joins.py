"""Images that two data sets name alike: by a shared id, by file name, by web address. Costs nothing and needs no image."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from eva02_det.contamination.listing import Entry

ID, FILE_NAME, URL = "id", "file_name", "url"
JOINS = (ID, FILE_NAME, URL)
_COCO_2014 = re.compile(r"^coco_(?:train|val|test)20\d\d_(?=\d{12}$)")


class Joins:
    """Finds the evaluation images that share a key with a corpus image.

    An id is a key only where the data sets share their ids; a number such as 1 in a file name is one, but proves nothing.
    """

    def __init__(self, entries: Iterable[Entry], stages: Sequence[str]) -> None:
        self.stages = tuple(stage for stage in JOINS if stage in stages)
        self._images: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number, entry in enumerate(entries):
            for key in self._keys(entry):
                self._images[key].append(number)

    def find(self, entry: Entry) -> dict[int, list[str]]:
        """{number of an evaluation image: by which joins it was found}."""
        found: dict[int, list[str]] = {}
        for key in self._keys(entry):
            for number in self._images.get(key, ()):
                found.setdefault(number, []).append(key[0])
        return found

    def _keys(self, entry: Entry) -> list[tuple[str, str]]:
        keys = {ID: entry.identity, FILE_NAME: stem(entry.file), URL: entry.address}
        return [(stage, key) for stage in self.stages if (key := keys[stage])]


def stem(file: str) -> str:
    """What a copy of a file would still be called: no folder, no ending, no COCO_val2014_ before the number, lower case."""
    name = file.replace("\\", "/").rpartition("/")[2]
    return _COCO_2014.sub("", (name.rpartition(".")[0] or name).lower())
