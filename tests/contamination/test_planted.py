"""Planted copies are found, and little else: the bars, on a part of what benchmarks/bm_planted.py runs."""

from typing import Any

import pytest

from benchmarks.bm_planted import DISTRACTOR, answers, report, tally
from benchmarks.planted import ALL_BUT_FEW, CHANGES, MOST, copies, distractor
from tests.contamination.photographs import files

EVERY = 20  # photographs; their copies and as many distractors take seconds


@pytest.fixture(scope="module")
def counts() -> dict[str, Any]:
    chosen = files()[::EVERY]
    return tally(answers([path.read_bytes() for path in chosen], 40, workers=1), [path.name for path in chosen])


def recall(counts: dict[str, Any], change: str) -> float:
    row = counts["changes"][change]
    return row["right"] / row["images"]


@pytest.mark.parametrize("change", ALL_BUT_FEW)
def test_copies_that_keep_the_whole_picture_are_all_found(counts: dict[str, Any], change: str) -> None:
    assert recall(counts, change) == 1


@pytest.mark.parametrize("change", MOST)
def test_nine_of_ten_crops_and_framed_copies_are_found(counts: dict[str, Any], change: str) -> None:
    assert recall(counts, change) >= 0.9


def test_no_picture_is_taken_for_another(counts: dict[str, Any]) -> None:
    assert not counts["pairs"]
    assert counts["changes"][DISTRACTOR]["images"] == 40
    assert report(counts, 0.0)[1]


def test_the_same_copies_are_planted_every_time() -> None:
    picture = files()[0].read_bytes()
    changes = ("cropped 20 %", "text", "mosaic quarter")
    assert list(copies([picture], changes)) == list(copies([picture], changes))
    assert {copy.change for copy in copies([picture])} == set(CHANGES)
    assert distractor(5).tobytes() == distractor(5).tobytes() != distractor(6).tobytes()
