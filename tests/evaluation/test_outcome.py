"""What is logged, returned and written of the numbers."""

import csv
import json
import math

from eva02_det.evaluation.outcome import (
    METRICS_FILE,
    RECORD_FILE,
    TABLE_FILE,
    Outcome,
    log_tables,
    returned,
    title,
    write_outcomes,
)
from eva02_det.evaluation.shards import Description


def described(benchmark: str, split: str | None = "val") -> Description:
    return Description(benchmark, "kitchen_val", "kitchen.json", 1, [1, 10, 100] if benchmark == "coco" else [300], split=split)


def outcome(classes: int) -> Outcome:
    by_class = {f"kind {number}": float(number) for number in range(classes)}
    return Outcome("bbox", {"AP": 12.5, "APs": math.nan}, by_class)


def test_the_title_names_the_part_of_the_data_set_and_the_limit():
    assert title(described("coco")) == "kitchen_val (val), at most 100 detections per image and class"
    assert title(described("lvis", "minival")) == "kitchen_val (minival), at most 300 detections per image"
    assert title(described("lvis", None)) == "kitchen_val, at most 300 detections per image"


def test_ap_by_class_is_shown_where_there_are_few_classes(caplog):
    with caplog.at_level("INFO"):
        log_tables(described("coco"), outcome(7))
    assert "12.500" in caplog.text
    assert "nan" in caplog.text
    assert "kind 6" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        log_tables(described("lvis"), outcome(1203))
    assert "kind 6" not in caplog.text


def test_only_coco_returns_ap_by_class():
    assert returned(described("coco"), [outcome(2)])["bbox"].keys() == {"AP", "APs", "AP-kind 0", "AP-kind 1"}
    assert returned(described("lvis"), [outcome(2)])["bbox"].keys() == {"AP", "APs"}


def test_the_files_hold_every_number_and_what_is_undefined_is_empty(tmp_path):
    write_outcomes(tmp_path, described("lvis", "minival"), [outcome(2)], {"images": 5})
    assert json.loads((tmp_path / METRICS_FILE).read_text()) == {"bbox": {"AP": 12.5, "APs": None}}
    record = json.loads((tmp_path / RECORD_FILE).read_text())
    assert (record["split"], record["images"], record["class_ap"]["bbox"]["kind 1"]) == ("minival", 5, 1.0)
    with (tmp_path / TABLE_FILE).open(newline="") as stream:
        rows = [tuple(row.values()) for row in csv.DictReader(stream)]
    head = ("kitchen_val", "minival", "bbox")
    assert rows == [
        (*head, "AP", "", "12.5"),
        (*head, "APs", "", ""),
        (*head, "AP", "kind 0", "0.0"),
        (*head, "AP", "kind 1", "1.0"),
    ]
