"""The record of a search for duplicates: written, read back, and refused where it is none."""

import copy
import csv
import json
from pathlib import Path
from typing import Any

import pytest

from eva02_det.contamination.record import AFFECTED_COLUMNS, PAIR_COLUMNS, Record, load_record
from eva02_det.utils.errors import UserError


def pair(image_id: int, corpus: str, confirmed: bool = True) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "file_name": f"val2017/{image_id:012d}.jpg",
        "corpus": corpus,
        "corpus_image": f'a, "b"/{image_id}.jpg',
        "found_by": ["bytes", "fingerprint"],
        "bits": 0,
        "similarity": 0.5,
        "coverage": None,
        "flip": False,
        "quarter_turns": 0,
        "window": [0.0, 0.0, 1.0, 1.0],
        "confirmed": confirmed,
        "reason": "the files are equal",
    }


def data() -> dict[str, Any]:
    counts = {"images": 1, "of_images": 4, "instances": 2, "of_instances": 9}
    affected = {**counts, "splits": {"val2017": counts}, "frequency": {"rare": {"categories": 3, **counts}}}
    return {
        "format": 1,
        "evaluation": {"name": "lvis_v1_val", "images": 4, "instances": 9, "digest": "d"},
        "corpora": [{"name": name, "spec": "x", "images": 5, "read": 5, "unreadable": 0} for name in ("coco", "o365")],
        "settings": {},
        "pairs": [pair(1, "coco"), pair(2, "o365"), pair(3, "o365", confirmed=False)],
        "affected": {"coco": affected, "any": affected},
    }


def test_a_saved_record_is_read_back_from_its_folder_and_from_its_file(tmp_path: Path):
    Record(data()).save(tmp_path)
    assert load_record(tmp_path).data == load_record(tmp_path / "report.json").data == data()


def test_ids_are_those_of_the_corpora_asked_for_and_of_confirmed_pairs_unless_told_otherwise():
    record = Record(data())
    assert record.image_ids() == {1, 2}
    assert record.image_ids(["coco"]) == {1}
    assert record.image_ids(["o365"], confirmed_only=False) == {2, 3}
    with pytest.raises(UserError, match=r"no corpus laion; it has coco, o365"):
        record.image_ids(["laion"])


def test_the_tables_hold_every_pair_and_every_group_whatever_the_names_contain(tmp_path: Path):
    Record(data()).save(tmp_path)
    with (tmp_path / "pairs.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == list(PAIR_COLUMNS)
    assert [row[3] for row in rows[1:]] == [one["corpus_image"] for one in data()["pairs"]]
    with (tmp_path / "affected.csv").open(newline="") as stream:
        affected = list(csv.DictReader(stream))
    assert list(affected[0]) == list(AFFECTED_COLUMNS)
    assert [(row["corpus"], row["group"], row["value"]) for row in affected] == [
        (corpus, group, value)
        for corpus in ("coco", "any")
        for group, value in (("all", ""), ("split", "val2017"), ("frequency", "rare"))
    ]
    assert (affected[2]["categories"], affected[0]["of_instances"]) == ("3", "9")


def test_the_numbers_are_told_in_words_with_what_is_doubtful_and_what_could_not_be_read():
    told = data()
    told["affected"]["coco"]["unconfirmed_images"] = 2
    told["corpora"][1]["unreadable"] = 4
    images, instances = "1 of 4 images of lvis_v1_val (val2017 1 of 4)", "2 of 9 instances"
    assert list(Record(told).lines()) == [
        f"coco: {images}, {instances}; 2 more images are unconfirmed",
        f"all corpora: {images}, {instances}; 2 more images are unconfirmed",
        "o365: 4 of 5 images are unreadable, see unreadable.txt",
    ]


def broken(change: str) -> Any:
    wrong = copy.deepcopy(data())
    if change == "format":
        wrong["format"] = 2
    elif change == "pairs":
        del wrong["pairs"]
    elif change == "corpus":
        wrong["pairs"][0]["corpus"] = "laion"
    elif change == "field":
        wrong["pairs"][1]["image_id"] = "2"
    else:
        return [1]
    return wrong


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("format", "its format is 2, known is 1"),
        ("pairs", "it lacks pairs"),
        ("corpus", "a corpus 'laion' that it does not list"),
        ("field", r"pairs\[1\] has no proper image_id"),
        ("list", "no JSON object"),
    ],
)
def test_what_is_no_record_is_refused_in_words(tmp_path: Path, change: str, sentence: str):
    (tmp_path / "report.json").write_text(json.dumps(broken(change)))
    with pytest.raises(UserError, match=sentence) as caught:
        load_record(tmp_path)
    assert "tools/find_duplicates.py" in str(caught.value)


def test_a_missing_record_and_one_that_is_no_json_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="there is no report"):
        load_record(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load_record(tmp_path)
