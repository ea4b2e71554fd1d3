"""The leak card says what a search found and what it could not see, the same everywhere, and travels with a model."""

import json
from pathlib import Path

import pytest

from eva02_det.contamination import leak_card
from eva02_det.contamination.record import Record
from eva02_det.utils.errors import UserError


def numbers(images: int, instances: int) -> dict:
    split = {"images": images, "of_images": 15, "instances": instances, "of_instances": 70}
    return {
        **{"images": images, "of_images": 20, "instances": instances, "of_instances": 90, "unconfirmed_images": 1},
        "splits": {"train2017": split},
        "frequency": {"rare": {"categories": 1, "images": images, "of_images": 6, "instances": 2, "of_instances": 9}},
    }


def pair(image: int, corpus: str, *found_by: str, confirmed: bool = True) -> dict:
    return {
        **{"image_id": image, "file_name": f"{image}.jpg", "corpus": corpus, "corpus_image": f"x/{image}.jpg"},
        **{"found_by": list(found_by), "bits": None, "similarity": None, "coverage": None, "flip": False, "quarter_turns": 0},
        **{"window": None, "confirmed": confirmed, "reason": "the same id"},
    }


def read(images: int, read: int, unreadable: int) -> dict:
    return {"images": images, "read": read, "unreadable": unreadable}


def record(home: str = "/home/me", **settings: object) -> Record:
    return Record(
        {
            "format": 1,
            "evaluation": {"name": "lvis_v1_val", "images": 20, "instances": 90, "digest": "ab12", "unreadable": 0},
            "corpora": [
                {"name": "coco", "spec": f"{home}/coco.json@{home}/train/", "digest": "c0", **read(500, 0, 0)},
                {"name": "w|b", "spec": f"{home}/web-{{000..127}}.tar", "digest": "eb", **read(900, 890, 10)},
            ],
            "settings": {
                **{"stages": ["id", "fingerprint"], "max_bits": 10, "embedder": f"{home}/copy.pt", "versions": {"numpy": "2.4"}},
                **settings,
            },
            "pairs": [
                pair(9, "coco", "id"),
                pair(3, "coco", "id", "file_name"),
                pair(3, "w|b", "fingerprint"),
                pair(4, "w|b", "fingerprint", confirmed=False),
            ],
            "affected": {"coco": numbers(2, 12), "w|b": numbers(1, 5), "any": numbers(2, 12)},
        }
    )


def test_the_card_holds_corpora_counts_method_and_the_ids_of_confirmed_images_alone():
    (one,) = leak_card.card(record())["comparisons"]
    assert one["evaluation"] == {"name": "lvis_v1_val", "images": 20, "instances": 90, "digest": "ab12"}
    assert one["pairs"] == {
        "confirmed": 3,
        "not_confirmed": 1,
        "confirmed_found_by": {"file_name": 1, "fingerprint": 1, "id": 2},
    }
    assert one["image_ids"] == {"coco": [3, 9], "w|b": [3], "any": [3, 9]}
    assert one["affected"] == record().data["affected"]
    assert one["method"] == {"stages": ["id", "fingerprint"], "max_bits": 10, "embedder": "copy.pt", "versions": {"numpy": "2.4"}}
    assert [corpus["digest"] for corpus in one["corpora"]] == ["c0", "eb"]


def test_what_the_search_could_not_see_is_said():
    (one,) = leak_card.card(record())["comparisons"]
    assert one["limits"] == [
        "no image of coco was read: copies under other names and ids are unseen",
        "10 of 900 images of w|b could not be read",
        "1 pairs are candidates that were not confirmed and do not count",
    ]
    (exact,) = leak_card.card(record(stages=["id", "bytes"]))["comparisons"]
    assert any("changed copies" in limit for limit in exact["limits"])


def test_equal_searches_give_equal_files_whatever_the_folders_of_the_machine(tmp_path: Path):
    leak_card.write(record("/home/me"), tmp_path / "here")
    leak_card.write(record("/scratch/you/sets"), tmp_path / "there")
    for name in (leak_card.JSON_FILE, leak_card.PAGE_FILE):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
        assert b"/home" not in (tmp_path / "here" / name).read_bytes()
    assert leak_card.card(record())["comparisons"][0]["corpora"][0]["source"] == "coco.json@train"


def test_the_page_has_a_row_for_each_corpus_and_names_cannot_break_its_tables(tmp_path: Path):
    leak_card.write(record(), tmp_path)
    page = (tmp_path / leak_card.PAGE_FILE).read_text()
    assert "| coco | 2 of 20 (10.0 %) | 12 of 90 (13.3 %) |" in page
    assert r"| w\|b | 1 of 20 (5.0 %) | 5 of 90 (5.6 %) |" in page
    assert "| **all** | 2 of 20 (10.0 %) | 12 of 90 (13.3 %) |" in page
    assert "| coco | rare | 2 of 6 (33.3 %) | 2 of 9 (22.2 %) |" in page
    assert "- max bits: 10" in page
    assert "- no image of coco was read" in page
    assert "0 is no proof of absence" in page
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for table in tables:
        assert len({line.replace(r"\|", "").count("|") for line in table}) == 1


def test_a_card_is_read_as_it_was_written_and_other_files_are_refused(tmp_path: Path):
    written = leak_card.write([record(), record(stages=["id"])], tmp_path)
    assert leak_card.read(written) == leak_card.read(tmp_path) == leak_card.card([record(), record(stages=["id"])])
    others = {"{": "not valid JSON", "[]": "no leak card", '{"format": 1, "comparisons": [{}]}': "no leak card"}
    for text, sentence in others.items():
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(UserError, match=sentence):
            leak_card.read(tmp_path / "other.json")
    with pytest.raises(UserError, match="there is no leak card"):
        leak_card.read(tmp_path / "missing.json")


def test_cards_join_in_a_model_folder_and_its_readme_names_them_once(tmp_path: Path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "README.md").write_text("# A model\n\nIts text.\n")
    cards = [leak_card.write(record(), tmp_path / "one"), leak_card.write(record(stages=["id"]), tmp_path / "two")]
    for _ in range(2):  # a second export changes nothing
        leak_card.attach(cards, model)
        readme = (model / "README.md").read_text()
        assert readme.startswith("# A model\n\nIts text.\n\n## Leaked evaluation images\n")
        assert readme.count(leak_card.HEADING) == 1
    assert "- coco holds 2 of 20 (10.0 %) images of lvis_v1_val, with 12 of 90 (13.3 %) objects." in readme
    assert "[leak_card.md](leak_card.md)" in readme
    assert len(json.loads((model / "leak_card.json").read_text())["comparisons"]) == 2


def test_an_export_without_a_card_leaves_none_of_an_earlier_one(tmp_path: Path):
    leak_card.attach([leak_card.write(record(), tmp_path / "one")], tmp_path / "model")
    assert leak_card.attach([], tmp_path / "model") is None
    assert not list((tmp_path / "model").glob("leak_card.*"))
