"""The intervals of a contamination study on an LVIS-shaped set, beside evaluating every resample anew.

`python benchmarks/bm_study.py [--images 19809] [--resamples 1000] [--json FILE]`: a table of seconds, of wall and processor, and
peak memory so far. Two arms with 300 detections an image, three quarters of the images contaminated, all quantities of the study
(eva02_det/contamination/effects.py). The peer is hotcoco, which evaluates one resample of one arm in the seconds measured here: a
study of both arms on three subsets is 4 x resamples times that, all and the two parts of it. Bar: 10 minutes of a core, 4 GB.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from bm_evaluation import peak_gb
from lvis_shaped import VAL_IMAGES, Shape, write_set
from tabulate import tabulate

import eva02_det  # noqa: F401  activates the provider of detectron2
from eva02_det.contamination.effects import Settings, estimates
from eva02_det.evaluation.subsets import Answers, read_answers, subset_metrics
from eva02_det.evaluation.truth import read_truth

CONTAMINATED = 0.757  # share of LVIS val that is in COCO train
BAR_S, BAR_GB = 600, 4


@contextmanager
def timed(rows: list[dict], what: str) -> Iterator[None]:
    wall, processor = time.perf_counter(), time.process_time()
    yield
    row = {"part": what, "wall s": time.perf_counter() - wall, "processor s": time.process_time() - processor}
    rows.append(row | {"peak GB so far": peak_gb()})


def second_arm(first: Answers) -> Answers:
    """The same boxes, otherwise ranked."""
    generator = np.random.default_rng(1)
    found = first.found["bbox"]
    scores = found.scores * generator.uniform(0.8, 1, len(found))
    return replace(first, found={"bbox": replace(found, scores=scores)})


def run(images: int, resamples: int, home: Path) -> list[dict]:
    rows: list[dict] = []
    file = write_set(home, Shape(images, 300))
    with timed(rows, "annotations and predictions read"):
        truth = read_truth(str(file), federated=True, masks=False)
        first = read_answers(home, truth, tasks=["bbox"])
    seen = np.random.default_rng(0).random(images) < CONTAMINATED
    arms = {"first": first, "second": second_arm(first)}
    with timed(rows, f"study, {resamples} resamples"):
        found = list(estimates(truth, arms, seen, Settings(resamples)))
    with timed(rows, "hotcoco, one resample of one arm"):
        metrics = subset_metrics(truth, first, np.arange(images))["bbox"]
    ours = next(one.value for one in found if (one.arm, one.subset, one.group, one.metric) == ("first", "all", "all", "AP"))
    rows.append({"part": "AP of the two apart", "wall s": abs(ours - metrics["AP"])})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=VAL_IMAGES)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--device", choices=("cpu",), default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        rows = run(chosen.images, chosen.resamples, Path(home))
    print(tabulate(rows, headers="keys", floatfmt=("", ".3g", ".1f", ".2f")))
    study, peer = rows[1], rows[2]
    print(f"as many evaluations by hotcoco would take {4 * chosen.resamples * peer['processor s'] / 3600:.1f} hours of a core")
    kept = study["processor s"] < BAR_S and study["peak GB so far"] < BAR_GB
    print(f"bar, below {BAR_S} s of a core and {BAR_GB} GB: {'kept' if kept else 'MISSED'}")
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
