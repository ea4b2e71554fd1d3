"""How far AP would move had other images been evaluated: paired resampling of images, and intervals made from it.

Each resample is a random half of the images of each stratum, drawn without repetition. The spread of a mean of images over such
halves is that over the usual resamples, of as many images as there are, drawn with repetition. The two part ways where categories
have few images, as most of LVIS have: AP is a mean over the categories that are there, and a category of one image is in 63 of
100 usual resamples but in 50 of 100 halves. Usual intervals come out too narrow there: projects/contamination/README.md has the
coverage of both. Halves are the bootstrap by weights known as double-or-nothing, with the number of images kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eva02_det.evaluation.backends import IOU_THRESHOLDS

# Axes: B resamples, I images, T IoU thresholds, K categories.

LEAST_DEFINED = 0.95  # share of the resamples that must have a number, for an interval to be given
METRICS: Mapping[str, tuple[int, ...]] = {
    "AP": tuple(range(len(IOU_THRESHOLDS))),
    "AP50": (0,),
    "AP75": (5,),
}


@dataclass(frozen=True)
class Interval:
    """An estimate from all images and where the true number probably lies; NaN where that cannot be said."""

    estimate: float
    low: float
    high: float
    standard_error: float
    defined: float  # share of the resamples that have a number

    @property
    def beyond_noise(self) -> bool | None:
        """Whether 0 is outside; None where there is no interval."""
        return None if np.isnan(self.low) else bool(self.low > 0 or self.high < 0)


def half_samples(strata: NDArray[Any], count: int, seed: int) -> NDArray[np.uint8]:
    """A weight of 0 or 1 for each image. strata: [I] the group of images that each belongs to -> [B, I].

    Each resample holds half of each stratum, of an odd number of images one more or one less at random. Equal arguments give
    equal resamples, so that two detectors meet the same images.
    """
    generator = np.random.default_rng(seed)
    weights = np.zeros((count, len(strata)), np.uint8)
    for stratum in np.unique(strata).tolist():
        images = np.flatnonzero(strata == stratum)
        for row in weights:
            half = (len(images) + int(generator.integers(2))) // 2
            row[generator.permutation(images)[:half]] = 1
    return weights


def group_means(ap: NDArray[np.float64], members: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """{metric: [B]}, the mean over those member categories of which an object is there; NaN where there is none.

    This is the benchmarks' rule for a data set, and the rule for a category that vanishes in a resample: the mean is then of the
    others. ap: [B, T, K], NaN for a category that is not there. members: [K].
    """
    some = ap[:, :, members]
    there = ~np.isnan(some[:, 0])  # [B, K']
    count = there.sum(axis=1)
    means = {}
    for metric, thresholds in METRICS.items():
        by_category = some[:, list(thresholds)].mean(axis=1)
        total = np.where(there, by_category, 0).sum(axis=1)
        means[metric] = np.divide(total, count, out=np.full(len(ap), np.nan), where=count > 0)
    return means


def interval(estimate: float, resampled: NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """Estimate ± normal quantile x spread of the resamples. resampled: [B], NaN where it is undefined.

    The spread is taken around the resamples' own mean: AP of half of the images is a little higher than that of all, so that
    their percentiles lie to one side of the estimate.
    """
    defined = resampled[~np.isnan(resampled)]
    share = len(defined) / max(len(resampled), 1)
    if np.isnan(estimate) or share < LEAST_DEFINED or len(defined) < 2:
        return Interval(estimate, np.nan, np.nan, np.nan, share)
    error = float(defined.std(ddof=1))
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return Interval(estimate, estimate - reach, estimate + reach, error, share)
