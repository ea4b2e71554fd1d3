"""What a search for duplicates found: the record that reports, studies and filters are made from, read with checks."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_json, write_text

FORMAT = 1
FILE = "report.json"
ANY = "any"  # in `affected`: of all corpora together

_LISTS: dict[str, dict[str, Any]] = {
    "evaluation": {"name": str, "images": int, "instances": int, "digest": str},
    "corpora": {"name": str, "spec": str, "images": int, "read": int, "unreadable": int},
    "pairs": {
        "image_id": int,
        "file_name": str,
        "corpus": str,
        "corpus_image": str,
        "found_by": list,
        "bits": (int, type(None)),
        "similarity": (int, float, type(None)),
        "coverage": (int, float, type(None)),
        "flip": bool,
        "quarter_turns": int,
        "window": (list, type(None)),
        "confirmed": bool,
        "reason": str,
    },
}
PAIR_COLUMNS = tuple(_LISTS["pairs"])
AFFECTED_COLUMNS = ("corpus", "group", "value", "categories", "images", "of_images", "instances", "of_instances")
_COUNTS = ("images", "of_images", "instances", "of_instances")


@dataclass(frozen=True)
class Record:
    """A report. data: plain JSON; docs/contamination.md describes its fields."""

    data: dict[str, Any]

    def __post_init__(self) -> None:
        if fault := _fault(self.data):
            raise UserError(f"this is no report of duplicates: {fault}; write it with tools/find_duplicates.py")

    @property
    def corpora(self) -> tuple[str, ...]:
        """Their names, in the order in which they were given."""
        return tuple(corpus["name"] for corpus in self.data["corpora"])

    @property
    def evaluation(self) -> str:
        """The name of the evaluation set."""
        return str(self.data["evaluation"]["name"])

    def pairs(self, corpora: Iterable[str] | None = None, confirmed_only: bool = True) -> Iterator[dict[str, Any]]:
        """Pairs with images of those corpora; of all without names. UserError for a corpus that was not searched."""
        wanted = self.corpora if corpora is None else tuple(corpora)
        if strange := [name for name in wanted if name not in self.corpora]:
            raise UserError(f"the report knows no corpus {', '.join(strange)}; it has {', '.join(self.corpora)}")
        return (one for one in self.data["pairs"] if one["corpus"] in wanted and (one["confirmed"] or not confirmed_only))

    def image_ids(self, corpora: Iterable[str] | None = None, confirmed_only: bool = True) -> set[int]:
        """Ids of the evaluation images that those corpora hold; of all corpora without names."""
        return {one["image_id"] for one in self.pairs(corpora, confirmed_only)}

    def lines(self) -> Iterator[str]:
        """The numbers of each corpus, and of all together, in words; and how many images of each could not be read."""
        for name, numbers in self.data["affected"].items():
            splits = ", ".join(f"{split} {part['images']} of {part['of_images']}" for split, part in numbers["splits"].items())
            images = f"{numbers['images']} of {numbers['of_images']} images of {self.evaluation} ({splits})"
            instances = f"{numbers['instances']} of {numbers['of_instances']} instances"
            doubtful = numbers.get("unconfirmed_images", 0)
            more = f"; {doubtful} more images are unconfirmed" if doubtful else ""
            yield f"{'all corpora' if name == ANY else name}: {images}, {instances}{more}"
        for corpus in self.data["corpora"]:
            if corpus["unreadable"]:
                yield f"{corpus['name']}: {corpus['unreadable']} of {corpus['images']} images are unreadable, see unreadable.txt"

    def save(self, folder: str | Path) -> None:
        """Write report.json, pairs.csv and affected.csv, each atomically, the first one last."""
        place = Path(folder)
        write_text(
            place / "pairs.csv", _csv(PAIR_COLUMNS, ([_cell(pair[key]) for key in PAIR_COLUMNS] for pair in self.data["pairs"]))
        )
        write_text(place / "affected.csv", _csv(AFFECTED_COLUMNS, _affected_rows(self.data["affected"])))
        write_json(place / FILE, self.data, indent=1)


def load_record(path: str | Path) -> Record:
    """The report in a folder, or in a JSON file; UserError where there is none or it is another file."""
    file = Path(path).expanduser()
    file = file / FILE if file.is_dir() else file
    try:
        return Record(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UserError(f"there is no report {file}; write it with tools/find_duplicates.py, or correct the path") from error
    except OSError as error:
        raise UserError(f"the report {file} cannot be read: {error.strerror}; check its permissions and its disk") from error
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON ({error}); write it again with tools/find_duplicates.py") from error
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _fault(data: Any) -> str | None:
    """What keeps plain JSON from being a report, in words; None where nothing does."""
    if not isinstance(data, dict):
        return "it is no JSON object"
    if data.get("format") != FORMAT:
        return f"its format is {data.get('format')!r}, known is {FORMAT}"
    kinds = {"evaluation": dict, "corpora": list, "settings": dict, "pairs": list, "affected": dict}
    if wrong := [key for key, kind in kinds.items() if not isinstance(data.get(key), kind)]:
        return f"it lacks {', '.join(wrong)}"
    for key, fields in _LISTS.items():
        for number, entry in enumerate(data[key] if kinds[key] is list else [data[key]]):
            if bad := _bad_fields(entry, fields):
                return f"{key}[{number}] has no proper {', '.join(bad)}"
    names = [corpus["name"] for corpus in data["corpora"]]
    if strange := {pair["corpus"] for pair in data["pairs"]} - set(names):
        return f"its pairs name a corpus {sorted(strange)[0]!r} that it does not list"
    return None


def _bad_fields(entry: Any, fields: dict[str, Any]) -> list[str]:
    if not isinstance(entry, dict):
        return list(fields)
    return [key for key, kind in fields.items() if key not in entry or not isinstance(entry[key], kind)]


def _affected_rows(affected: dict[str, Any]) -> Iterator[list[str]]:
    for corpus, numbers in affected.items():
        yield [corpus, "all", "", "", *_counts(numbers)]
        for split, part in numbers.get("splits", {}).items():
            yield [corpus, "split", split, "", *_counts(part)]
        for group, part in numbers.get("frequency", {}).items():
            yield [corpus, "frequency", group, _cell(part.get("categories")), *_counts(part)]


def _counts(numbers: dict[str, Any]) -> list[str]:
    return [_cell(numbers.get(key)) for key in _COUNTS]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _csv(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
