"""The two halves that stand in for a test set."""

import hashlib

import pytest

from eva02_det.evaluation.halves import HALVES, half


@pytest.mark.parametrize("count", [0, 1, 7, 5000])
def test_the_halves_share_no_image_leave_none_out_and_are_of_one_size(count: int):
    ids = [37 * number + 139 for number in range(count)]
    first, second = (half(ids, which) for which in HALVES)
    assert sorted([*first, *second]) == ids
    assert len(first) - len(second) == count % 2


def test_a_half_depends_on_the_ids_alone_and_not_on_their_order():
    ids = list(range(1, 201))
    assert half(reversed(ids), "b") == half(ids, "b") == half([*ids, *ids], "b")


def test_the_rule_is_the_documented_one():
    ids = [139, 285, 632, 724, 776]
    by_digest = sorted(ids, key=lambda image: hashlib.sha256(b"%d" % image).hexdigest())
    assert half(ids, "a") == sorted(by_digest[:3])


def test_a_half_is_not_the_first_ids():
    assert 800 < sum(image < 2500 for image in half(range(5000), "a")) < 1700
