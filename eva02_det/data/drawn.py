"""Training images as they are drawn: each mapped with random numbers of its own, an unreadable one replaced."""

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import Dataset

from eva02_det.data.mapper import ImageError, UnreadableImageError
from eva02_det.data.order import Draw
from eva02_det.utils.randomness import key_of, seeded

NEIGHBOURS = 100  # tried in a row after an unreadable image
REPLACES = "replaces"  # key of an item that stands for others: why each of them could not be read

Record = dict[str, Any]


class DrawnImages(Dataset[Any]):
    """A map-style data set whose index is a draw.

    What a mapper makes of a record depends on (seed, place of the draw, record) alone, whichever process or worker maps it,
    whatever was mapped before. The next readable record of the list stands in for an unreadable one, and the next for which
    there is anything for one of which the mapper makes None.
    """

    def __init__(self, records: Any, mapper: Callable[[Record], Any], seed: int) -> None:
        self.records, self.mapper, self.seed = records, mapper, seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, draw: Draw) -> Any:
        number, place = draw
        reasons: list[str] = []
        with seeded(key_of(self.seed, place)):
            for candidate in self._candidates(number):
                try:
                    item = self.mapper(self.records[candidate])
                except UnreadableImageError as error:
                    reasons.append(str(error))
                    continue
                if item is not None:
                    return {**item, REPLACES: reasons} if reasons else item
        raise ImageError(f"{len(reasons)} images in a row cannot be read; {reasons[-1] if reasons else 'they give nothing'}")

    def _candidates(self, number: int) -> Iterator[int]:
        """The record that was drawn and those that follow it in the list, none twice."""
        return ((number + step) % len(self) for step in range(min(NEIGHBOURS + 1, len(self))))
