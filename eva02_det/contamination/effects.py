"""AP of detectors on contaminated and clean images, the differences, and the intervals of all of these, from one resampling."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
from numpy.typing import NDArray

from eva02_det.contamination.bootstrap import Interval, group_means, half_samples, interval
from eva02_det.evaluation.matches import Matches, matches
from eva02_det.evaluation.subsets import Answers
from eva02_det.evaluation.truth import Truth
from eva02_det.evaluation.weighted import WeightedAp
from eva02_det.utils.errors import UserError

# Axes: B resamples, before them one of all images, so 1 + B; I images; K categories.

ALL, CONTAMINATED, CLEAN = "all", "contaminated", "clean"
BOTH = f"{CONTAMINATED} - {CLEAN}"
AP, GAP, DIFFERENCE, DOUBLE = "AP", "gap", "difference", "difference of differences"
EVERY, SHARED = "all", "shared"  # groups: all categories, those with objects in contaminated and in clean images
FEWEST_IMAGES = 30  # that both sides of a comparison need, to be called noise or not
FREQUENCY_GROUPS = {"rare": "r", "common": "c", "frequent": "f"}

Values = Mapping[tuple[str, str, str], NDArray[np.float64]]  # (subset, group, metric) -> [1 + B]


@dataclass(frozen=True)
class Settings:
    """Of the resampling."""

    resamples: int = 1000
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.resamples < 2 or not 0 < self.confidence < 1:
            raise UserError(
                f"{self.resamples} resamples at a confidence of {self.confidence} give no interval; "
                "take 1000 resamples and a confidence between 0 and 1, such as 0.95"
            )


@dataclass(frozen=True)
class Size:
    """What an estimate rests on: images in which a category of its group was looked for, objects, categories with objects."""

    images: int
    instances: int
    categories: int


@dataclass(frozen=True)
class Estimate:
    """One number in percent, or a difference in percent points; the interval is None where none can be given.

    beyond_noise: whether 0 is outside of the interval; None of AP itself, and where a side has less than FEWEST_IMAGES.
    images, instances, categories: what it rests on (see Size); of a comparison of two subsets, the smaller of their numbers.

    quantity: AP of an arm on a subset; gap, its AP on contaminated less that on clean images; difference, AP of one arm less that
    of the first on a subset; difference of differences, that on contaminated less that on clean images.
    """

    task: str
    quantity: str
    arm: str  # name, of differences "B - A"
    subset: str
    group: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    standard_error: float | None
    beyond_noise: bool | None
    images: int
    instances: int
    categories: int


def estimates(truth: Truth, arms: Mapping[str, Answers], seen: NDArray[np.bool_], settings: Settings) -> Iterator[Estimate]:
    """seen: [I] the contaminated images. arms: the differences are of each to the first. Tasks are those that all arms have."""
    subsets = subset_rows(seen)
    groups = category_groups(truth, seen)
    sizes = {(subset, group): size_of(truth, rows, groups[group]) for subset, rows in subsets.items() for group in groups}
    halves = half_samples(seen, settings.resamples, settings.seed)
    weights = np.concatenate([np.ones((1, len(seen)), np.uint8), halves])
    for task in tasks_of_all(arms):
        found = {name: matches(truth, answers.found[task]) for name, answers in arms.items()}
        values = {name: _values(one, subsets, groups, weights) for name, one in found.items()}
        for quantity, arm, numbers in _quantities(values):
            for (subset, group, metric), column in numbers.items():
                one = interval(float(column[0]), column[1:], settings.confidence)
                sides = [sizes[side, group] for side in ((CONTAMINATED, CLEAN) if subset == BOTH else (subset,))]
                yield _estimate((task, quantity, arm, subset, group, metric), one, sides)


def subset_rows(seen: NDArray[np.bool_]) -> dict[str, NDArray[np.int64]]:
    """The images of each subset, ascending."""
    return {ALL: np.arange(len(seen)), CONTAMINATED: np.flatnonzero(seen), CLEAN: np.flatnonzero(~seen)}


def category_groups(truth: Truth, seen: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Which categories are in each group, [K]; the frequencies of LVIS alone, `shared` only where it differs from `all`."""
    counted = ~truth.crowd
    there = [np.bincount(truth.category[counted & side[truth.image]], minlength=len(truth.names)) > 0 for side in (seen, ~seen)]
    groups = {EVERY: np.ones(len(truth.names), bool)}
    if (there[0] != there[1]).any():
        groups[SHARED] = there[0] & there[1]
    if truth.frequency is not None:
        groups |= {name: truth.frequency == letter for name, letter in FREQUENCY_GROUPS.items()}
    return groups


def size_of(truth: Truth, rows: NDArray[np.integer], members: NDArray[np.bool_]) -> Size:
    """Of a group of categories, [K], in some images."""
    inside = np.zeros(len(truth.image_ids), bool)
    inside[rows] = True
    objects = truth.category[inside[truth.image] & ~truth.crowd & members[truth.category]]
    looked = inside
    if truth.absent is not None:
        image, category = np.divmod(np.union1d(truth.pairs(truth.image, truth.category), truth.absent), len(truth.names))
        looked = np.bincount(image[members[category]], minlength=len(inside)) > 0
    return Size(int((looked & inside).sum()), len(objects), len(np.unique(objects)))


def tasks_of_all(arms: Mapping[str, Answers]) -> list[str]:
    """The tasks that every arm has predictions for, boxes first."""
    first, *others = arms.values()
    return [task for task in first.found if all(task in other.found for other in others)]


def _values(
    found: Matches, subsets: Mapping[str, NDArray[np.int64]], groups: Mapping[str, NDArray[np.bool_]], weights: NDArray[np.uint8]
) -> Values:
    values: dict[tuple[str, str, str], NDArray[np.float64]] = {}
    for subset, rows in subsets.items():
        ap = WeightedAp(found.of_images(rows))(weights[:, rows])
        for group, members in groups.items():
            values |= {(subset, group, metric): column for metric, column in group_means(ap, members).items()}
    return values


def _quantities(values: Mapping[str, Values]) -> Iterator[tuple[str, str, Values]]:
    """(quantity, arm, numbers). The difference of differences is the gap of the difference."""
    for arm, numbers in values.items():
        yield AP, arm, numbers
        yield GAP, arm, _gap(numbers)
    (base, first), *others = values.items()
    for arm, numbers in others:
        difference = {key: column - first[key] for key, column in numbers.items()}
        yield DIFFERENCE, f"{arm} - {base}", difference
        yield DOUBLE, f"{arm} - {base}", _gap(difference)


def _gap(numbers: Values) -> Values:
    """Contaminated less clean."""
    return {
        (BOTH, group, metric): column - numbers[CLEAN, group, metric]
        for (subset, group, metric), column in numbers.items()
        if subset == CONTAMINATED
    }


def _estimate(names: tuple[str, str, str, str, str, str], one: Interval, sides: Sequence[Size]) -> Estimate:
    low, high = (one.low, one.high) if names[1] != AP else np.clip([one.low, one.high], 0, 100).tolist()
    value, low, high, error = (
        None if isnan(number) else float(number) for number in (one.estimate, low, high, one.standard_error)
    )
    judged = names[1] != AP and min(side.images for side in sides) >= FEWEST_IMAGES
    rests_on = [min(getattr(side, name) for side in sides) for name in ("images", "instances", "categories")]
    return Estimate(*names, value, low, high, error, one.beyond_noise if judged else None, *rests_on)
