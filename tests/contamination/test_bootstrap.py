"""Resampling of images and the intervals made from it: the right spread, the rule for what vanishes, the stated coverage."""

import numpy as np
import pytest

from eva02_det.contamination.bootstrap import group_means, half_samples, interval
from projects.contamination.coverage import METHODS, QUANTITIES, coverage
from projects.contamination.populations import Kind, population


def test_each_resample_holds_half_of_each_stratum_and_equal_seeds_give_equal_ones():
    strata = np.array([0] * 10 + [1] * 7 + [2])
    weights = half_samples(strata, count=400, seed=3)
    assert set(np.unique(weights)) == {0, 1}
    assert set(weights[:, :10].sum(axis=1)) == {5}
    assert set(weights[:, 10:17].sum(axis=1)) == {3, 4}
    assert weights.mean(axis=0) == pytest.approx(0.5, abs=0.1)
    np.testing.assert_array_equal(weights, half_samples(strata, count=400, seed=3))
    assert (weights != half_samples(strata, count=400, seed=4)).any()


def test_the_spread_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).exponential(size=200)
    weights = half_samples(np.zeros(200, int), count=4000, seed=0)
    means = (weights * values).sum(axis=1) / weights.sum(axis=1)
    found = interval(values.mean(), means)
    assert found.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(200), rel=0.04)
    assert found.high - found.estimate == pytest.approx(1.959964 * found.standard_error, rel=1e-5)
    assert found.estimate - found.low == pytest.approx(found.high - found.estimate)
    narrow = interval(values.mean(), means, confidence=0.5)
    assert narrow.high - narrow.low == pytest.approx((found.high - found.low) * 0.67449 / 1.959964, rel=1e-4)


def test_the_spread_of_a_mean_over_categories_of_one_image_is_its_standard_error_too():
    """The usual resamples, drawn with repetition, give three quarters of it."""
    values = np.random.default_rng(1).normal(size=300)  # of as many categories, each in an image of its own
    right = values.std(ddof=1) / np.sqrt(300)

    def spread(weights: np.ndarray) -> float:
        ap = np.where(weights > 0, values, np.nan)[:, None].repeat(10, axis=1)  # [B, T, K]
        return interval(values.mean(), group_means(ap, np.ones(300, bool))["AP"]).standard_error

    assert spread(half_samples(np.zeros(300, int), 2000, 0)) == pytest.approx(right, rel=0.06)
    usual = np.random.default_rng(2).multinomial(300, np.full(300, 1 / 300), 2000)
    assert spread(usual) == pytest.approx(0.76 * right, rel=0.06)


def test_a_category_that_vanishes_is_left_out_of_the_mean():
    ap = np.zeros((3, 10, 4))
    ap[:, :5], ap[:, 5:] = np.array([10, 20, 60, 99]), np.array([0, 10, 30, 99])  # thresholds from 0.75 on are the latter
    ap[1, :, 2] = np.nan
    ap[2, :, :3] = np.nan
    found = group_means(ap, np.array([True, True, True, False]))
    assert list(found) == ["AP", "AP50", "AP75"]
    np.testing.assert_allclose(found["AP50"], [30, 15, np.nan])
    np.testing.assert_allclose(found["AP75"], [40 / 3, 5, np.nan])
    np.testing.assert_allclose(found["AP"], [(30 + 40 / 3) / 2, 10, np.nan])


def test_there_is_no_interval_where_resamples_are_undefined_too_often():
    resampled = np.random.default_rng(0).normal(1, 0.1, 100)
    resampled[:5] = np.nan
    some = interval(1.0, resampled)
    assert some.beyond_noise
    assert some.defined == pytest.approx(0.95)
    resampled[:6] = np.nan
    none = interval(1.0, resampled)
    assert none.beyond_noise is None
    assert np.isnan([none.low, none.high, none.standard_error]).all()
    assert interval(float("nan"), resampled).beyond_noise is None
    assert interval(0.1, np.random.default_rng(0).normal(0.1, 0.1, 100)).beyond_noise is False


def test_a_population_has_the_effect_that_was_asked_for():
    without, strong = (population(Kind(images=1000, gain=gain), seed=0) for gain in (0.0, 2.0))
    assert (without.first.images, without.first.categories, without.seen.sum()) == (1000, 8, 500)
    for name in ("object_image", "object_category"):
        np.testing.assert_array_equal(getattr(without.first, name), getattr(without.second, name))
    shares = [
        [arm.right[0, side[arm.image]].sum() / side[arm.object_image].sum() for side in (whole.seen, ~whole.seen)]
        for whole in (without, strong)
        for arm in (whole.second,)
    ]
    assert abs(shares[0][0] - shares[0][1]) < 0.05
    assert shares[1][0] > shares[1][1] + 0.1


def test_of_a_hundred_intervals_at_95_percent_about_95_hold_the_truth():
    """500 studies of images drawn from a population of known AP; projects/contamination/coverage.py makes thousands."""
    method = "halves, normal (the study's)"
    rows = coverage(Kind(images=2000, categories=5), 100, studies=500, resamples=80, methods={method: METHODS[method]})
    assert [row["quantity"] for row in rows] == list(QUANTITIES)
    for row in rows:
        assert 93 <= row["coverage"] <= 97, row
        assert row["coverage"] + row["too low"] + row["too high"] == pytest.approx(100)
