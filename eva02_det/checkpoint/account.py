"""The account of a load: what became of every key of a file and of every key of a model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

Shape = tuple[int, ...]


@dataclass
class Account:
    """Where every key went.

    Each key of the file is in `used`, `dropped` or one of the problems (`unexpected`, `mismatched`, `damaged`); each key of
    the model is in `filled`, `new` or `absent`, unless a problem names the key that was meant for it.
    """

    origin: str = ""
    layout: str = ""
    filled: list[str] = field(default_factory=list)  # keys of the model
    used: list[str] = field(default_factory=list)  # keys of the file
    renamed: dict[str, tuple[str, ...]] = field(default_factory=dict)  # key of the file -> its keys in the model
    resized: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)  # key of the file -> shape there, shape here
    dropped: dict[str, str] = field(default_factory=dict)  # key of the file -> the rule, in words
    new: dict[str, str] = field(default_factory=dict)  # key of the model -> why it may start anew
    unexpected: dict[str, Shape] = field(default_factory=dict)  # keys of the file
    mismatched: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)  # key of the file -> shape there, shape here
    damaged: dict[str, str] = field(default_factory=dict)  # key of the file -> what is wrong with its values
    absent: dict[str, Shape] = field(default_factory=dict)  # keys of the model

    @property
    def complete(self) -> bool:
        """Whether file and model agree, all rules considered."""
        return not (self.unexpected or self.mismatched or self.damaged or self.absent)

    def summary(self) -> str:
        """One line: what became of how many keys."""
        counts = {"renamed": len(self.renamed), "resized": len(self.resized), "dropped by rule": len(self.dropped)}
        parts = [f"{count} {what}" for what, count in {**counts, "start anew": len(self.new)}.items() if count]
        return f"{self.layout}: {', '.join([f'{len(self.filled)} tensors loaded', *parts])}"

    def problems(self) -> str:
        """All that does not fit, every key with its shapes; empty where all is well."""
        lists = {
            "not in the file": {key: str(list(shape)) for key, shape in self.absent.items()},
            "not in the model": {key: str(list(shape)) for key, shape in self.unexpected.items()},
            "of another shape": {key: f"{list(a)} instead of {list(b)}" for key, (a, b) in self.mismatched.items()},
            "damaged": self.damaged,
        }
        return ", ".join(f"{len(found)} {what} ({', '.join(grouped(found))})" for what, found in lists.items() if found)


def grouped(found: Mapping[str, str]) -> list[str]:
    """'key detail' of each; keys of one detail that differ in their first number only are one entry, as in blocks.{0..11}."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for key, detail in found.items():
        before, number, after = re.fullmatch(r"(.*?)(?:(?<=\.)(\d+)(?=\.|$)(.*))?", key, re.DOTALL).groups(default="")  # type: ignore[union-attr]
        groups.setdefault((before, after, detail), []).append(number)
    return [f"{before}{_span(numbers)}{after} {detail}" for (before, after, detail), numbers in groups.items()]


def _span(numbers: list[str]) -> str:
    """'5', '{2,7}' or '{0..11}'."""
    if len(numbers) == 1:
        return numbers[0]
    values = sorted(int(number) for number in numbers)
    is_run = len(values) > 2 and values == list(range(values[0], values[-1] + 1))
    return "{" + (f"{values[0]}..{values[-1]}" if is_run else ",".join(map(str, values))) + "}"
