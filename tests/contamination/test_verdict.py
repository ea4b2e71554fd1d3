"""The plain sentences: what they say of an effect, of none, of too few images, of one detector alone."""

from dataclasses import replace

import pytest

from eva02_det.contamination.effects import AP, BOTH, CLEAN, CONTAMINATED, DIFFERENCE, DOUBLE, GAP, Estimate, Settings
from eva02_det.contamination.verdict import in_words, sentences, table

SIZE = {"images": 15_000, "instances": 190_000, "categories": 1_030}
SUBSETS = {
    "all": {"all": {"images": 19_809, "instances": 244_707, "categories": 1_035}},
    "contaminated": {"all": SIZE},
    "clean": {"all": {"images": 4_809, "instances": 54_000, "categories": 900}},
}
SETTINGS = Settings()


def one(quantity: str, value: float | None, reach: float | None = 0.4, **changes: object) -> Estimate:
    low, high = (None, None) if value is None or reach is None else (value - reach, value + reach)
    beyond = None if low is None else abs(value) > reach
    subset = BOTH if quantity in (GAP, DOUBLE) else "all"
    arm = "m38m - in21k" if quantity in (DIFFERENCE, DOUBLE) else "m38m"
    estimate = Estimate("bbox", quantity, arm, subset, "all", "AP", value, low, high, reach, beyond, **SIZE)
    return replace(estimate, **changes)


def two_arms(double: Estimate, *more: Estimate) -> list[Estimate]:
    values = {"all": 0.05, CONTAMINATED: 0.11, CLEAN: -0.02}
    return [*(one(DIFFERENCE, value, subset=subset) for subset, value in values.items()), double, *more]


def test_an_effect_within_the_noise_is_called_so_with_the_least_that_could_be_seen():
    lines = sentences(two_arms(one(DOUBLE, 0.13, 0.46)), SUBSETS, SETTINGS)
    assert lines == [
        "The numbers rest on 15,000 images (190,000 instances of 1,030 categories) that are contaminated and "
        "4,809 images (54,000 instances of 900 categories) that are clean.",
        "Box AP, m38m - in21k: +0.05 (95 % interval -0.35 to +0.45) on all, +0.11 (95 % interval -0.29 to +0.51) on "
        "contaminated, -0.02 (95 % interval -0.42 to +0.38) on clean images.",
        "The difference is +0.13 (95 % interval -0.33 to +0.59) higher on contaminated images than on clean ones: not beyond "
        "noise; an effect of less than about 0.46 points could not be told from noise with these images.",
    ]
    small = sentences(two_arms(one(DOUBLE, 0.13, 0.46), one(DOUBLE, 0.1, None, group="rare")), SUBSETS, SETTINGS)
    assert small == [*lines, "No group of categories has images enough to say more."]


def test_an_effect_beyond_the_noise_is_called_so_and_groups_are_named_with_what_chance_gives():
    groups = [one(DOUBLE, 0.1, group="shared"), one(DOUBLE, 2.5, 1.5, group="rare"), one(DOUBLE, None, group="common")]
    lines = sentences(two_arms(one(DOUBLE, -0.9), *groups), SUBSETS, SETTINGS)
    assert lines[2] == (
        "The difference is -0.90 (95 % interval -1.30 to -0.50) higher on contaminated images than on clean ones: beyond noise."
    )
    assert lines[3] == (
        "By group of categories, that of rare +2.50 (95 % interval +1.00 to +4.00) is beyond noise; of 2 groups looked at, "
        "expect 0.1 to be so by chance."
    )
    calm = sentences(two_arms(one(DOUBLE, 0.1), *groups[:1]), SUBSETS, SETTINGS)
    assert calm[3] == "By group of categories (shared), none is beyond noise."


@pytest.mark.parametrize(
    ("double", "sentence"),
    [
        (one(DOUBLE, 3.0, beyond_noise=None), "fewer than 30 images, too few to say whether this is noise"),
        (one(DOUBLE, None), "undefined, so nothing can be said"),
        (one(DOUBLE, 3.0, None), "no interval: too many resamples hold none of its categories"),
    ],
)
def test_what_cannot_be_said_is_not_said(double: Estimate, sentence: str):
    line = sentences(two_arms(double), SUBSETS, SETTINGS)[2]
    assert sentence in line
    assert "beyond noise" not in line


def test_of_one_detector_the_gap_is_told_with_what_it_does_not_show():
    values = {"all": 55.3, CONTAMINATED: 55.1, CLEAN: 55.9}
    arm = [one(AP, value, subset=subset, beyond_noise=None) for subset, value in values.items()]
    lines = sentences([*arm, one(GAP, -0.8)], SUBSETS, SETTINGS)
    assert lines[1] == (
        "Box AP of m38m: 55.30 [54.90, 55.70] on all, 55.10 [54.70, 55.50] on contaminated, 55.90 [55.50, 56.30] on clean images."
    )
    assert (
        lines[2] == "On contaminated images it is -0.80 (95 % interval -1.20 to -0.40) higher than on clean ones: beyond noise."
    )
    assert "cannot tell images that it has seen from images that are easier" in lines[3]


def test_every_task_and_arm_has_its_sentences():
    boxes = two_arms(one(DOUBLE, 0.1))
    masks = [replace(estimate, task="segm") for estimate in boxes]
    others = [replace(estimate, arm="other - in21k") for estimate in boxes]
    lines = sentences([*boxes, *others, *masks], SUBSETS, SETTINGS)
    starts = [line.split(":")[0] for line in lines if "AP," in line]
    assert starts == ["Box AP, m38m - in21k", "Box AP, other - in21k", "Mask AP, m38m - in21k"]


def test_an_interval_says_its_confidence():
    assert in_words(one(DOUBLE, 0.1), Settings(confidence=0.9)) == "+0.10 (90 % interval -0.30 to +0.50)"


def test_the_table_has_a_line_for_each_number_and_marks_what_is_beyond_noise():
    estimates = [*two_arms(one(DOUBLE, 0.9)), one(AP, 55.0, beyond_noise=None), one(DOUBLE, None, group="rare")]
    lines = [line.split("  ") for line in table(estimates, "bbox").splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[0] == ["arm", "categories", "metric", "all", "contaminated", "clean", "contaminated - clean"]
    assert cells[2] == [
        "m38m - in21k",
        "all",
        "AP",
        "+0.05 [-0.35, +0.45]",
        "+0.11 [-0.29, +0.51]",
        "-0.02 [-0.42, +0.38]",
        "+0.90 [+0.50, +1.30] *",
    ]
    assert cells[3] == ["m38m", "all", "AP", "55.00 [54.60, 55.40]"]
    assert len(cells) == 4
    assert table(estimates, "segm").splitlines()[2:] == []
