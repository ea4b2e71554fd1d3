"""Learning rates of the steps."""

import pytest

from eva02_det.utils.errors import UserError
from eva02_mim.schedules import WarmupCosine

# specification 6.2: peak 1, floor 0.1, 4 epochs of 5 steps, the first one warming up
TOY = [0, 0.25, 0.5, 0.75, 1, 1, 0.990166, 0.961095, 0.914058, 0.851109]
TOY += [0.775, 0.689058, 0.597038, 0.502962, 0.410942, 0.325, 0.248891, 0.185942, 0.138905, 0.109834]


def test_the_toy_schedule_has_the_rates_of_the_released_code():
    schedule = WarmupCosine(1.0, 0.1, steps=20, warmup=5)
    assert [schedule(step) for step in range(20)] == pytest.approx(TOY, abs=5e-7)


def test_the_first_update_has_no_rate_and_the_last_of_the_warm_up_the_peak():
    schedule = WarmupCosine(1.5e-3, 1e-5, steps=1000, warmup=70)
    assert schedule(0) == 0
    assert schedule(69) == schedule(70) == 1.5e-3 > schedule(71)


def test_the_floor_is_approached_and_not_reached():
    schedule = WarmupCosine(1.5e-3, 1e-5, steps=1_040_000, warmup=6_933)
    assert 1e-5 < schedule(1_039_999) < 1.00001e-5


def test_without_warm_up_the_first_step_has_the_peak():
    assert WarmupCosine(2.0, 0.0, steps=10)(0) == 2


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(UserError, match="schedule of 10 steps with 11 of warm-up"):
        WarmupCosine(1.0, 0.0, steps=10, warmup=11)
