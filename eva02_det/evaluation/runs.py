"""Many masks as one column of COCO's compressed run lengths, encoded and measured all at once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eva02_det.utils.errors import UserError

# Axes: N masks, H and W their rows and columns, C runs of all masks, B bytes of all masks.
#
# The format: pixels go down the columns; a mask is the lengths of its runs of 0 and 1 in turn, the first of 0. From its fourth
# run on, the difference to the run of the same colour before is stored. A number is cut into groups of 5 bits, the lowest
# first, as many as its sign needs; a group is one character from "0" on, 32 higher where another follows.

PIXELS_AT_ONCE = 2**26  # of bitmaps being encoded: bounds the temporary flags to 64 MiB
BYTES_AT_ONCE = 2**20  # of compressed runs being read or moved: their integers take some 80 MiB
GROUP_BITS, FIRST_CHARACTER, MORE, SIGN = 5, 48, 32, 16
MOST_GROUPS = 12  # that a number of 64 bits can need


@dataclass(frozen=True)
class Runs:
    """N masks; an empty byte string stands for no mask at all."""

    text: NDArray[np.uint8]  # [B]
    ends: NDArray[np.int64]  # [N], where each mask ends in the text

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> bytes:
        start = self.ends[row - 1] if row else 0
        return self.text[start : self.ends[row]].tobytes()

    @property
    def sizes(self) -> NDArray[np.int64]:
        """[N] bytes of each mask."""
        return np.diff(self.ends, prepend=0)

    def take(self, rows: NDArray[np.integer]) -> "Runs":
        """The masks of these rows, in their order."""
        sizes = self.sizes[rows]
        ends = np.cumsum(sizes)
        back = self.ends[rows] - ends  # of each mask, what takes its new place to its old one
        text = np.empty(ends[-1] if len(ends) else 0, np.uint8)
        for start, stop in _pieces(ends):
            left, right = ends[start] - sizes[start], ends[stop - 1]
            text[left:right] = self.text[np.repeat(back[start:stop], sizes[start:stop]) + np.arange(left, right)]
        return Runs(text, ends)

    def areas(self) -> NDArray[np.int64]:
        """[N] pixels of each mask."""
        return self._summed(_areas)

    def pixels(self) -> NDArray[np.int64]:
        """[N] pixels that the runs of 0 and 1 of each mask cover together: height times width of its image."""
        return self._summed(_pixels)

    def _summed(self, count: Callable[["Runs"], NDArray[np.int64]]) -> NDArray[np.int64]:
        """[N] what `count` says of the masks of a piece, piece by piece."""
        found = np.zeros(len(self), np.int64)
        for start, stop in _pieces(self.ends):
            offset = self.ends[start - 1] if start else 0
            found[start:stop] = count(Runs(self.text[offset : self.ends[stop - 1]], self.ends[start:stop] - offset))
        return found


def join(parts: Sequence[Runs]) -> Runs:
    """All masks in one column."""
    if not parts:
        return no_masks(0)
    shifts = np.cumsum([0, *(len(part.text) for part in parts)])
    ends = [part.ends + shift for part, shift in zip(parts, shifts)]
    return Runs(np.concatenate([part.text for part in parts]), np.concatenate(ends))


def no_masks(count: int) -> Runs:
    """So many times no mask."""
    return Runs(np.zeros(0, np.uint8), np.zeros(count, np.int64))


def from_texts(texts: Sequence[bytes]) -> Runs:
    """Masks that are compressed already."""
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    return Runs(np.frombuffer(b"".join(texts), np.uint8), ends)


def encode(masks: torch.Tensor) -> Runs:
    """Bitmaps as compressed run lengths, byte by byte those of pycocotools. [N, H, W] bool on any device.

    Only the places where a run ends leave the device, so that full-size bitmaps are not copied to the host.
    """
    count, height, width = masks.shape
    at_once = max(1, PIXELS_AT_ONCE // max(1, height * width))
    return join([_encode(part.bool()) for part in masks.split(at_once)]) if count else join([])


def as_result(text: bytes, size: Sequence[int]) -> dict[str, Any]:
    """One mask in COCO's result format. size: height and width."""
    return {"size": [int(side) for side in size], "counts": text.decode("ascii")}


def _pieces(ends: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """First and last + 1 of masks that together are about BYTES_AT_ONCE long."""
    start = 0
    while start < len(ends):
        offset = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, offset + BYTES_AT_ONCE, side="right")))
        yield start, stop
        start = stop


def _encode(masks: torch.Tensor) -> Runs:
    """One piece: [N, H, W] bool."""
    count, height, width = masks.shape
    pixels = height * width
    # True where a pixel differs from the one before it, which is the one above
    changes = masks.clone(memory_format=torch.contiguous_format)
    changes[:, 1:] ^= masks[:, :-1]
    changes[:, 0, 1:] ^= masks[:, -1, :-1]  # on top of a column: the one at the bottom of the column before
    mask, place = np.divmod(_true_places(changes), pixels)
    row, col = np.divmod(place, width)
    # every mask has one more end, that of its last run; the columns' order is that of the numbers to sort
    places = np.concatenate([mask * (pixels + 1) + col * height + row, np.arange(count) * (pixels + 1) + pixels])
    places.sort()
    owner, place = np.divmod(places, pixels + 1)
    first = np.searchsorted(owner, np.arange(count))
    lengths = np.diff(place, prepend=0)
    lengths[first] = place[first]
    return _compress(lengths, first)


def _true_places(flags: torch.Tensor) -> NDArray[np.int64]:
    """Where the flags are True, in the order of their memory. On the host NumPy looks six times faster than PyTorch."""
    flat = flags.reshape(-1)
    return np.flatnonzero(flat.numpy()) if flat.device.type == "cpu" else flat.nonzero()[:, 0].cpu().numpy()


def _compress(lengths: NDArray[np.int64], first: NDArray[np.int64]) -> Runs:
    """[C] run lengths and [N] where each mask begins among them."""
    numbers = lengths.copy()
    numbers[2:] -= lengths[:-2]
    for position in range(3):  # the first three runs of a mask are stored as they are
        rows = first + position
        rows = rows[rows < np.append(first[1:], len(lengths))]
        numbers[rows] = lengths[rows]
    groups = np.ones(len(numbers), np.int64)
    rest = (numbers >> (GROUP_BITS - 1)) ^ (numbers >> 63)  # zero as soon as one bit is left for the sign
    while rest.any():
        groups += rest != 0
        rest >>= GROUP_BITS
    ends = np.cumsum(groups)
    position = np.arange(ends[-1]) - np.repeat(ends - groups, groups)
    characters = (np.repeat(numbers, groups) >> (GROUP_BITS * position)) & (MORE - 1)
    characters += FIRST_CHARACTER + MORE
    characters[ends - 1] -= MORE
    return Runs(characters.astype(np.uint8), ends[np.append(first[1:], len(lengths)) - 1])


def _areas(runs: Runs) -> NDArray[np.int64]:
    """Pixels of the masks of one piece."""
    numbers, position, later, ends = _stored(runs)
    return _totals(np.where(position % 2, numbers * later, 0), ends)  # runs of 1 are at the odd positions


def _pixels(runs: Runs) -> NDArray[np.int64]:
    """Pixels of the images of one piece's masks."""
    numbers, position, later, ends = _stored(runs)
    return _totals(numbers * np.where(position, later, 1), ends)  # nothing is a difference to the first run


def _stored(runs: Runs) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """[C] the stored numbers, their place in their mask, and in how many runs each counts; [N] where each mask ends."""
    numbers, ends = _numbers(runs)
    counts = np.diff(ends, prepend=0)
    position = np.arange(len(numbers)) - np.repeat(ends - counts, counts)
    # a stored difference counts in its own run and in all later runs of its colour
    return numbers, position, (np.repeat(counts, counts) - position + 1) // 2, ends


def _totals(values: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """[N] sums over the runs of each mask."""
    totals = np.concatenate([[0], np.cumsum(values)])
    return totals[ends] - np.concatenate([[0], totals[ends][:-1]])


def _numbers(runs: Runs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[C] the stored numbers of all masks, and [N] where each mask ends among them."""
    groups = runs.text.astype(np.int64) - FIRST_CHARACTER
    is_last = (groups & MORE) == 0
    stops = np.flatnonzero(is_last) + 1
    starts = np.append(0, stops)[: len(stops)]
    whole = not len(groups) or (groups.min() >= 0 and groups.max() < 2 * MORE and bool(is_last[runs.ends - 1].all()))
    if not whole or (stops - starts).max(initial=0) > MOST_GROUPS:
        raise UserError("a mask's run lengths are not in COCO's compressed format; write the results again")
    position = np.arange(len(groups)) - np.repeat(starts, stops - starts)
    values = (groups & (MORE - 1)) << (GROUP_BITS * position)
    negative = groups[stops - 1] & SIGN != 0
    numbers = np.add.reduceat(values, starts) if len(starts) else np.zeros(0, np.int64)
    numbers -= negative.astype(np.int64) << (GROUP_BITS * (stops - starts))
    return numbers, np.concatenate([[0], np.cumsum(is_last)])[runs.ends]
