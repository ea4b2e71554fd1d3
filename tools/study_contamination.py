#!/usr/bin/env python3
"""What having seen evaluation images did to AP: one detector or two, on all, contaminated and clean images, with intervals.

python tools/study_contamination.py --record output/duplicates/report.json --predictions output/in21k output/m38m \\
    --names in21k m38m --out output/study
python tools/study_contamination.py --image-ids seen.json --evaluation lvis_v1_val --predictions results.json --out output/study
"""

import argparse
import logging
import sys
from pathlib import Path

import eva02_det  # noqa: F401  activates the provider of detectron2
from eva02_det.contamination.effects import Settings
from eva02_det.contamination.record import load_record
from eva02_det.contamination.study import study
from eva02_det.contamination.study_files import write_study
from eva02_det.contamination.verdict import table
from eva02_det.evaluation.rules import TASKS
from eva02_det.evaluation.score import read_image_ids
from eva02_det.utils.errors import UserError, run_tool


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    source = options.add_mutually_exclusive_group(required=True)
    source.add_argument("--record", metavar="FILE", help="report.json of tools/find_duplicates.py: its images are contaminated")
    source.add_argument("--image-ids", metavar="FILE", help="JSON list of the contaminated images; needs --evaluation")
    options.add_argument("--corpora", nargs="+", metavar="NAME", help="of the record, only these (default: all)")
    options.add_argument("--unconfirmed", action="store_true", help="pairs that were not confirmed count too")
    options.add_argument("--evaluation", metavar="NAME", help="data set of the predictions (default: the record's)")
    options.add_argument(
        "--predictions",
        nargs="+",
        required=True,
        metavar="PATH",
        help="output folder of an evaluation or JSON file of results, of one detector or more; the clean arm first",
    )
    options.add_argument("--names", nargs="+", metavar="NAME", help="of the detectors (default: the names of their files)")
    options.add_argument("--tasks", nargs="+", choices=TASKS, help="default: boxes, and masks where both sides have them")
    options.add_argument("--max-detections", nargs="+", type=int, help="COCO: limits per image and class; LVIS: one per image")
    options.add_argument("--resamples", type=int, default=1000, help="of the images, for the intervals (default 1000)")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--confidence", type=float, default=0.95)
    options.add_argument("--out", metavar="DIR", required=True, help="where study.json, study.csv and study.md go")
    return options


def contaminated(chosen: argparse.Namespace) -> tuple[str, set[int | str]]:
    """The data set and its images that were seen."""
    if not chosen.record:
        if not chosen.evaluation:
            raise UserError("--image-ids also needs --evaluation, the data set that the images are of")
        return chosen.evaluation, set(read_image_ids(chosen.image_ids))
    record = load_record(chosen.record)
    if chosen.evaluation not in (None, record.evaluation):
        raise UserError(f"{chosen.record} is about {record.evaluation}, not {chosen.evaluation}; search in that data set first")
    return record.evaluation, set(record.image_ids(chosen.corpora, confirmed_only=not chosen.unconfirmed))


def main() -> None:
    chosen = parser().parse_args()
    names = chosen.names or [Path(path).stem for path in chosen.predictions]
    if len(names) != len(chosen.predictions) or len(set(names)) < len(names):
        raise UserError(f"--names must give {len(chosen.predictions)} different names, one for each of --predictions")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    evaluation, images = contaminated(chosen)
    settings = Settings(chosen.resamples, chosen.seed, chosen.confidence)
    arms = dict(zip(names, chosen.predictions))
    found = study(evaluation, images, arms, settings=settings, tasks=chosen.tasks, max_detections=chosen.max_detections)
    write_study(found, chosen.out)
    for task in dict.fromkeys(one.task for one in found.estimates):
        print(f"{task}\n{table(found.estimates, task)}\n")
    print(*found.sentences(), sep="\n")


if __name__ == "__main__":
    run_tool(main)
