"""Candidates: pairs of images that a frame or two regions speak for, each once, in order."""

import numpy as np
import pytest

from eva02_det.contamination import candidates
from eva02_det.contamination.candidates import Candidates, CandidateSearch, agreeing
from eva02_det.contamination.fingerprints import BYTES, Places, corpus_rows, evaluation_rows
from eva02_det.contamination.poses import POSES, Pose
from tests.contamination.photographs import photograph

NUMBERS = np.array([7, 3, 11])  # of the evaluation images: any, in any order


@pytest.fixture(scope="module")
def searched() -> CandidateSearch:
    rows = [evaluation_rows(photograph(n))[0] for n in range(3)]
    return CandidateSearch(np.concatenate(rows), np.repeat(NUMBERS, [len(part) for part in rows]))


def asked(searched: CandidateSearch, *images: np.ndarray) -> Candidates:
    rows = [corpus_rows(image) for image in images]
    return searched.search(np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(part) for part in rows]))


def test_copies_are_candidates_once_each_in_the_order_of_the_corpus(searched: CandidateSearch) -> None:
    crop = photograph(1)[20:-20, 30:-10]
    found = asked(searched, photograph(2), np.zeros((50, 50, 3), np.uint8), crop, photograph(0)[:, ::-1], photograph(5))
    assert found.corpus.tolist() == [0, 2, 3]
    assert found.evaluation.tolist() == [11, 3, 7]
    assert found.bits.max() <= 8


def test_two_evaluation_images_in_one_corpus_image_are_both_candidates(searched: CandidateSearch) -> None:
    height = min(len(photograph(0)), len(photograph(1)))
    found = asked(searched, np.concatenate([photograph(0)[:height], photograph(1)[:height]], axis=1))
    assert found.evaluation.tolist() == [3, 7]


def test_images_asked_one_by_one_or_together_have_the_same_candidates(
    searched: CandidateSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [photograph(n)[10:, 15:] for n in (2, 0, 5, 1)]
    together = asked(searched, *images)
    monkeypatch.setattr(candidates, "IMAGES_AT_ONCE", 1)
    alone = asked(searched, *images)
    for field in ("corpus", "evaluation", "bits"):
        np.testing.assert_array_equal(getattr(alone, field), getattr(together, field))
    assert together.corpus.tolist() == [0, 1, 3]


def test_no_rows_give_no_candidates(searched: CandidateSearch) -> None:
    none = searched.search(np.empty((0, BYTES), np.uint8), np.empty(0, np.int64))
    assert none.corpus.shape == none.evaluation.shape == none.bits.shape == (0,)
    empty = CandidateSearch(np.empty((0, BYTES), np.uint8), np.empty(0, np.int64))
    assert len(asked(empty, photograph(0)).corpus) == 0


def laid(center: np.ndarray, side: np.ndarray, pose: int = 0) -> Places:
    return Places(np.asarray(center, float), np.asarray(side, float), np.full(len(side), pose), np.zeros(len(side), bool))


@pytest.mark.parametrize("pose", POSES, ids=str)
def test_regions_agree_where_one_placement_explains_them(pose: Pose) -> None:
    center, side = np.array([[40.0, 50.0], [90.0, 60.0]]), np.array([30.0, 24.0])
    moved = 0.5 * center @ pose.matrix().T + [80, 70]
    # the copy was read in pose 0 and the original in the pose that makes it look like that
    assert agreeing(laid(moved, side / 2), laid(center, side, pose.number))
    assert not agreeing(laid(moved + [[0, 0], [12, 0]], side / 2), laid(center, side, pose.number))  # another place
    assert not agreeing(laid(moved, side / [2, 3]), laid(center, side, pose.number))  # another scale
    assert not agreeing(laid(moved[:1].repeat(2, 0), side / 2), laid(center[:1].repeat(2, 0), side, pose.number))  # one place
