"""The files of an effect study: all of it as JSON, its numbers as CSV, and a page to read."""

import csv
from dataclasses import asdict, fields
from pathlib import Path

from eva02_det.contamination.effects import Estimate
from eva02_det.contamination.study import Study
from eva02_det.contamination.verdict import markdown
from eva02_det.utils.files import atomic_path, write_json, write_text

RECORD_FILE, TABLE_FILE, PAGE_FILE = "study.json", "study.csv", "study.md"


def write_study(study: Study, folder: str | Path) -> None:
    """study.json: `Study.as_record`; study.csv: a line per estimate; study.md: the sentences and tables."""
    folder, record = Path(folder), study.as_record()
    write_json(folder / RECORD_FILE, record, indent=1)
    with atomic_path(folder / TABLE_FILE) as path, path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, [field.name for field in fields(Estimate)], lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(one) for one in study.estimates)
    write_text(folder / PAGE_FILE, markdown(record))
