#!/usr/bin/env python3
"""How often the intervals of the study hold the true number, beside those of the usual bootstrap: many studies of made-up images.

python projects/contamination/coverage.py                                  1,000 studies of each kind, some ten minutes of a core
python projects/contamination/coverage.py --studies 200 --json coverage.json
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import eva02_det  # noqa: F401  activates the provider of detectron2
from eva02_det.contamination.bootstrap import group_means, half_samples, interval
from eva02_det.evaluation.weighted import WeightedAp
from projects.contamination.populations import Kind, Population, population

# Axes: B resamples, before them one of all images, so 1 + B; I images.

KINDS = {
    "8 common categories": (Kind(), 200),
    "30 categories, some rare": (Kind(categories=30, per_image=3, tail=1.0), 200),
    "60 categories, most rare": (Kind(categories=60, per_image=3, tail=1.2), 200),
}
QUANTITIES = ("AP", "difference", "difference of differences")
Columns = dict[str, NDArray[np.float64]]  # quantity -> [1 + B]


def quantities(whole: Population, rows: NDArray[np.int64], weights: NDArray[np.uint8]) -> Columns:
    """The study's three kinds of numbers on some images of the population. rows: [I] ascending. weights: [1 + B, I]."""
    everything, seen = np.ones(whole.first.categories, bool), whole.seen[rows]
    means = [
        [
            group_means(WeightedAp(arm.of_images(rows[part]))(weights[:, part]), everything)["AP"]
            for part in (np.ones_like(seen), seen, ~seen)
        ]
        for arm in (whole.first, whole.second)
    ]
    overall, contaminated, clean = (second - first for first, second in zip(*means))
    return dict(zip(QUANTITIES, (means[0][0], overall, contaminated - clean)))


def usual_samples(seen: NDArray[np.bool_], count: int, seed: int) -> NDArray[np.uint8]:
    """As `half_samples`, but as many images as there are, drawn with repetition."""
    generator = np.random.default_rng(seed)
    weights = np.zeros((count, len(seen)), np.uint8)
    for side in (seen, ~seen):
        weights[:, side] = generator.multinomial(side.sum(), np.full(side.sum(), 1 / side.sum()), count)
    return weights


def ours(column: NDArray[np.float64]) -> tuple[float, float]:
    found = interval(float(column[0]), column[1:])
    return found.low, found.high


def percentiles(column: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(column[1:], (0.025, 0.975))
    return float(low), float(high)


def basic(column: NDArray[np.float64]) -> tuple[float, float]:
    """The percentiles, mirrored at the estimate."""
    low, high = percentiles(column)
    return float(2 * column[0] - high), float(2 * column[0] - low)


METHODS: Mapping[str, tuple[Callable[..., NDArray[np.uint8]], Callable[..., tuple[float, float]]]] = {
    "halves, normal (the study's)": (half_samples, ours),
    "halves, percentiles": (half_samples, percentiles),
    "usual, normal": (usual_samples, ours),
    "usual, percentiles": (usual_samples, percentiles),
    "usual, basic": (usual_samples, basic),
}


def coverage(kind: Kind, images: int, studies: int, resamples: int, seed: int = 0, methods: Mapping = METHODS) -> list[dict]:
    """A row per method and quantity. images: of a study, half of them contaminated.

    The truth of a difference is that of the population. The truth of AP itself is the mean over the studies: AP of few objects
    is higher than that of many, so the population's is not what a data set of this size measures.
    """
    whole, generator = population(kind, seed), np.random.default_rng(seed)
    everything = np.arange(kind.images)
    truth = {
        name: float(column[0]) for name, column in quantities(whole, everything, np.ones((1, kind.images), np.uint8)).items()
    }
    samplers = {sampler for sampler, _ in methods.values()}
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    estimates: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    for study in range(studies):
        rows = np.concatenate(
            [generator.choice(np.flatnonzero(side), images // 2, replace=False) for side in (whole.seen, ~whole.seen)]
        )
        rows.sort()
        one = np.ones((1, images), np.uint8)
        columns = {
            sampler: quantities(whole, rows, np.concatenate([one, sampler(whole.seen[rows], resamples, study)]))
            for sampler in samplers
        }
        for name in QUANTITIES:
            estimates[name].append(float(columns[next(iter(samplers))][name][0]))
            for method, (sampler, make) in methods.items():
                found.setdefault((method, name), []).append(make(columns[sampler][name]))
    truth["AP"] = float(np.mean(estimates["AP"]))
    return [
        _row(method, name, np.array(intervals), truth[name], float(np.std(estimates[name])))
        for (method, name), intervals in found.items()
    ]


def _row(method: str, name: str, intervals: NDArray[np.float64], truth: float, spread: float) -> dict:
    low, high = intervals.T
    return {
        "intervals": method,
        "quantity": name,
        "coverage": 100 * float(((low <= truth) & (truth <= high)).mean()),
        "too low": 100 * float((high < truth).mean()),
        "too high": 100 * float((low > truth).mean()),
        "width": float((high - low).mean()),
        "right width": 2 * NormalDist().inv_cdf(0.975) * spread,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000, help="of each kind")
    parser.add_argument("--resamples", type=int, default=200, help="in each study")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    chosen = parser.parse_args()
    rows = []
    for name, (kind, images) in KINDS.items():
        started = time.process_time()
        mine = coverage(kind, images, chosen.studies, chosen.resamples, chosen.seed)
        print(f"{name}, {images} images, {chosen.studies} studies, {time.process_time() - started:.0f} s of a core")
        print(tabulate(mine, headers="keys", floatfmt=("", "", ".1f", ".1f", ".1f", ".2f", ".2f")), flush=True)
        rows += [{"kind": name, **row} for row in mine]
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
