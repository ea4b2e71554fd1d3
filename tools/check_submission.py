#!/usr/bin/env python3
"""What a test server would not take of a submission: a sentence for each fault.

python tools/check_submission.py submission/bbox/detections_test-dev2017_NAME_results.zip submission/segm/*.zip
python tools/check_submission.py my.zip --dataset lvis_v1_val --per-image 300
python tools/check_submission.py my.json --annotations image_info.json --benchmark coco --dataset coco_2017_test-dev
Ends with 0 where nothing is wrong, else 1.
"""

import argparse
import sys

from eva02_det.engine.submission import annotation_file
from eva02_det.evaluation.halves import HALVES
from eva02_det.evaluation.rules import BENCHMARKS, TASKS
from eva02_det.evaluation.submission import LARGEST_ZIP_BYTES, PER_IMAGE
from eva02_det.evaluation.submission_check import check_submission, expectations
from eva02_det.utils.errors import run_tool


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("files", nargs="+", metavar="FILE", help=".zip as it is sent, or the .json in it")
    options.add_argument("--dataset", metavar="NAME", default="coco_2017_test-dev", help="default: coco_2017_test-dev")
    options.add_argument("--annotations", metavar="FILE", help="its annotation file or list of images (default: the registered)")
    options.add_argument("--benchmark", choices=BENCHMARKS, help="default: as the data set's name begins")
    options.add_argument("--task", choices=TASKS, help="default: what the first entry of a file has")
    options.add_argument("--per-image", type=int, help=f"most detections of an image; default: {PER_IMAGE}")
    options.add_argument("--half", choices=HALVES, help="only one of the two fixed halves of the images is asked for")
    options.add_argument(
        "--largest-mb", type=float, default=LARGEST_ZIP_BYTES / 1e6, help="most MB of a zip; default: %(default)g"
    )
    return options


def main() -> None:
    chosen = parser().parse_args()
    benchmark = chosen.benchmark or ("lvis" if chosen.dataset.startswith("lvis") else "coco")
    expected = expectations(
        chosen.annotations or annotation_file(chosen.dataset),
        benchmark,
        chosen.dataset,
        per_image=chosen.per_image,
        which_half=chosen.half,
        largest_zip_bytes=int(chosen.largest_mb * 1e6),
    )
    reports = [check_submission(file, expected, task=chosen.task) for file in chosen.files]
    for report in reports:
        print(*report.lines(), sep="\n")
    sys.exit(1 if any(report.faults for report in reports) else 0)


if __name__ == "__main__":
    run_tool(main)
