"""The account of images that could not be read: counted, named, and a reason to stop once they are too many."""

import logging
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from detectron2.utils import comm

from eva02_det.utils.errors import UserError

log = logging.getLogger(__name__)

NAMED = 10  # names that are logged and kept
SHOWN = 3  # of them in a sentence
FEW = 1000  # below this many images a rate says little: the limit is taken of this many


@dataclass
class BrokenImages:
    """Unreadable images among those that one rank has seen. max_rate: above this share the run stops."""

    max_rate: float = 0.01
    seen: int = 0
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, seen: int, broken: list[str]) -> None:
        """Account for a batch: how many images were asked for, and "name: reason" of those that were unreadable.

        Raises UserError once more than max_rate of the images were unreadable.
        """
        self.seen += seen
        for text in broken:
            self.count += 1
            if text in self.first:  # in an earlier epoch
                continue
            if len(self.first) < NAMED:
                self.first.append(text)
                log.warning("unreadable: %s", text)
            elif self.count & (self.count - 1) == 0:  # 16, 32, 64 ...: a bad disk does not flood the log
                log.warning("%s", self.summary())
        if self.count > self.max_rate * max(self.seen, FEW):
            raise UserError(
                f"{self.summary()}, more than max_broken={self.max_rate:g} of them (of {FEW} at least); "
                "repair or remove them, or raise max_broken"
            )

    def summary(self) -> str:
        """One sentence without a full stop."""
        if not self.count:
            return f"all of {self.seen} images were readable"
        shown = "; ".join(self.first[:SHOWN]) + ("; ..." if len(self.first) > SHOWN else "")
        return f"{self.count} of {self.seen} images were unreadable, first {shown}"

    def state_dict(self) -> dict[str, Any]:
        """The counts and the first names."""
        return {"seen": self.seen, "count": self.count, "first": list(self.first)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from a saved state."""
        self.seen, self.count, self.first = int(state["seen"]), int(state["count"]), list(state["first"])


def account_of_all(account: BrokenImages) -> BrokenImages:
    """What all processes together have seen; every one must ask. The first names are taken from each in turn."""
    states = comm.all_gather(account.state_dict())
    named = [text for texts in zip_longest(*(state["first"] for state in states)) for text in texts if text is not None]
    first = list(dict.fromkeys(named))[:NAMED]
    return BrokenImages(account.max_rate, sum(state["seen"] for state in states), sum(state["count"] for state in states), first)
