"""Reads the elements of a JSON list one by one, so that a file of gigabytes needs megabytes."""

import json
from collections.abc import Iterator
from typing import Any, TextIO

CHUNK = 1 << 20  # characters
LONGEST = 16 << 20  # characters of one element: ten times the mask of a checkerboard of 1000 x 1000


class Fields(dict[str, Any]):
    """A JSON object that remembers which of its names it had more than once; the last value counts, as usual."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.repeated = tuple(sorted({name for name in names if names.count(name) > 1})) if len(self) < len(pairs) else ()


def elements(stream: TextIO) -> Iterator[Any]:
    """The elements of the list that the stream is; objects are `Fields`. ValueError, in words, where it is no list or breaks."""
    text = _Text(stream)
    if text.take() != "[":
        raise ValueError("it does not begin with [")
    if text.look() == "]":
        text.take()
    else:
        mark = ","
        while mark == ",":
            yield text.element()
            mark = text.take()
        if mark != "]":
            raise ValueError(f"{mark!r} stands where , or ] belongs" if mark else "it ends before the list does")
    if text.look():
        raise ValueError("something follows the list")


class _Text:
    """A stream of which a piece is in memory."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._text, self._at = stream, "", 0
        self._decoder = json.JSONDecoder(object_pairs_hook=Fields)

    def look(self) -> str:
        """The next character that is no blank, without moving past it; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self) -> str:
        """The same, moving past it."""
        found = self.look()
        self._at += len(found)
        return found

    def element(self) -> Any:
        """The next element, moving past it."""
        if not self.look():
            raise ValueError("it ends before the list does")
        while True:
            try:
                value, self._at = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # a piece may end in the middle of an element: an error only where the whole of it is there
                if len(self._text) - self._at > LONGEST:
                    raise ValueError(f"{error.msg} after {self._text[self._at : self._at + 60]!r}") from error
                if not self._more():
                    whole = self._text.rstrip().endswith("]")
                    what = error.msg if whole else "the file ends in the middle of it,"
                    raise ValueError(f"{what} after {self._text[self._at : self._at + 60]!r}") from error
            else:
                return value

    def _more(self) -> bool:
        """Read on; False at the end of the stream."""
        piece = self._stream.read(CHUNK)
        if piece:
            self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)
