"""What a scoring came to: as a table in the log, as JSON and CSV in a folder."""

import csv
import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tabulate import tabulate

from eva02_det.evaluation.metrics import Metrics
from eva02_det.evaluation.predictions import Predictions
from eva02_det.evaluation.shards import Description
from eva02_det.utils.files import atomic_path, write_json

RESULTS_FILE = "coco_instances_results.json"
METRICS_FILE, TABLE_FILE, RECORD_FILE = "results.json", "results.csv", "evaluation.json"
MOST_CLASSES_SHOWN = 100
PER_LINE = 12  # metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The numbers of one task, in percent."""

    task: str
    metrics: Metrics
    by_class: Metrics


def log_tables(description: Description, outcome: Outcome) -> None:
    """The benchmark's numbers, and AP by class where the classes are few enough to read."""
    names = list(outcome.metrics)
    rows = [{name: outcome.metrics[name] for name in names[start : start + PER_LINE]} for start in range(0, len(names), PER_LINE)]
    tables = "\n".join(tabulate([row], headers="keys", floatfmt=".3f") for row in rows)
    log.info("%s on %s, percent:\n%s", outcome.task, title(description), tables)
    if 1 < len(outcome.by_class) <= MOST_CLASSES_SHOWN:
        log.info("%s AP by class:\n%s", outcome.task, _in_columns(outcome.by_class))


def title(description: Description) -> str:
    """The data set, which part of it, and the limits."""
    split = f" ({description.split})" if description.split else ""
    per = "image" if description.benchmark == "lvis" else "image and class"
    return f"{description.dataset}{split}, at most {description.max_detections[-1]} detections per {per}"


def write_outcomes(
    folder: str | Path, description: Description, outcomes: Iterable[Outcome], counts: Mapping[str, int | float]
) -> None:
    """results.json: {task: {metric: value}}; results.csv: a line per number; evaluation.json: all of it and how it came."""
    folder, outcomes = Path(folder), list(outcomes)
    head = {"dataset": description.dataset, "split": description.split or ""}
    lines = [
        head | {"task": one.task, "metric": name, "class": label, "value": "" if math.isnan(value) else repr(value)}
        for one in outcomes
        for name, label, value in _numbers(one)
    ]
    with atomic_path(folder / TABLE_FILE) as path, path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, ["dataset", "split", "task", "metric", "class", "value"], lineterminator="\n")
        table.writeheader()
        table.writerows(lines)
    record = {
        **head,
        "benchmark": description.benchmark,
        "annotation_file": description.annotation_file,
        "max_detections": description.max_detections,
        "area_bins": description.area_bins,
        "backend": f"{description.backend} {_version(description.backend)}",
        **counts,
        "metrics": {one.task: one.metrics for one in outcomes},
        "class_ap": {one.task: one.by_class for one in outcomes},
    }
    write_json(folder / RECORD_FILE, without_nan(record), indent=1)
    # last: whoever waits for it finds the others there
    write_json(folder / METRICS_FILE, without_nan(returned(description, outcomes)), indent=1)


def returned(description: Description, outcomes: Iterable[Outcome]) -> dict[str, Metrics]:
    """{task: metrics} under detectron2's names; as there, COCO's with AP-<class> and LVIS's, of 1203 classes, without."""
    with_classes = description.benchmark == "coco"
    return {
        one.task: one.metrics | ({f"AP-{name}": value for name, value in one.by_class.items()} if with_classes else {})
        for one in outcomes
    }


def write_results(folder: str | Path, parts: Iterable[Predictions], category_ids: Mapping[int, int]) -> Path:
    """All predictions as one file in COCO's result format, written as they come."""
    target, count = Path(folder) / RESULTS_FILE, 0
    with atomic_path(target) as path, path.open("w", encoding="utf-8") as stream:
        stream.write("[")
        for part in parts:
            for result in part.results(category_ids):
                stream.write((", " if count else "") + json.dumps(result))
                count += 1
        stream.write("]")
    log.info("%d predictions written to %s", count, target)
    return target


def _numbers(outcome: Outcome) -> Iterable[tuple[str, str, float]]:
    """Metric, class and value; the class is empty where the number is for all."""
    yield from ((name, "", value) for name, value in outcome.metrics.items())
    yield from (("AP", label, value) for label, value in outcome.by_class.items())


def without_nan(value: Any) -> Any:
    """JSON has no NaN: what is undefined becomes null."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


def _in_columns(metrics: Metrics, columns: int = 6) -> str:
    """A long table of two columns folded to fit a terminal."""
    cells = [cell for pair in metrics.items() for cell in pair]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return tabulate(rows, headers=["class", "AP"] * (columns // 2), floatfmt=".3f")
