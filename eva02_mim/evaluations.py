"""The record of a fine-tuning run's evaluations: what is best so far, the table, and results.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from eva02_det.utils.files import write_json

RECORD, RESULTS = "evaluations.json", "results.json"
RAW, EMA = "raw", "ema"  # the weights that learn, and their average
Scores = dict[str, dict[str, float]]  # name of the weights -> {top1, top5, images}


class Evaluations:
    """Entries {"step", "epoch", "scores"} of a folder, written after each evaluation; only one process may write."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.entries: list[dict[str, Any]] = []

    def load(self, step: int) -> None:
        """What an earlier part of the run found up to `step`."""
        file = self.folder / RECORD
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
        self.entries = [entry for entry in found if entry["step"] <= step]

    def has(self, step: int) -> bool:
        """Whether the weights after `step` steps were evaluated."""
        return any(entry["step"] == step for entry in self.entries)

    def add(self, step: int, epoch: float, scores: Scores) -> bool:
        """Note an evaluation; True where it is the best so far, the earlier one of two equal ones."""
        before = self.best
        entry = {"step": step, "epoch": epoch, "scores": scores}
        self.entries.append(entry)
        return before is None or _top1(entry) > _top1(before)

    def write(self) -> None:
        """The record, whole or not at all."""
        write_json(self.folder / RECORD, self.entries, indent=1)

    @property
    def best(self) -> dict[str, Any] | None:
        """The entry with the highest top-1 of any of its weights."""
        return max(self.entries, key=_top1, default=None)

    def finish(self) -> str:
        """Write results.json, and return the table of the last and the best evaluation."""
        if not self.entries:
            return "no evaluation: the config has no dataloader.validation"
        last, best = self.entries[-1], self.best or self.entries[-1]
        write_json(self.folder / RESULTS, {"last": last, "best": best}, indent=1)
        rows = [row for title, entry in (("last", last), ("best", best)) for row in rows_of(title, entry)]
        return table(rows)


def rows_of(title: str, entry: Mapping[str, Any]) -> list[list[Any]]:
    """Rows of the table: title and epoch, weights, top-1, top-5, images."""
    named = f"{title}, epoch {entry['epoch']:g}" if "epoch" in entry else title
    return [[named, name, s["top1"], s["top5"], int(s["images"])] for name, s in entry["scores"].items()]


def table(rows: list[list[Any]]) -> str:
    """For people; `results.json` holds all digits."""
    return tabulate(rows, headers=["evaluation", "weights", "top-1 %", "top-5 %", "images"], floatfmt=".3f")


def _top1(entry: Mapping[str, Any]) -> float:
    return max(scores["top1"] for scores in entry["scores"].values())
