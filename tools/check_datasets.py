#!/usr/bin/env python3
"""What is there of the data sets, what is missing, broken or invalid, with counts.

python tools/check_datasets.py                                   all known sets below DETECTRON2_DATASETS
python tools/check_datasets.py lvis_v1_train lvis_v1_val --decode
python tools/check_datasets.py --data my.json --images my_images --json report.json
Ends with 0 where every set that was asked for can be used (without names: every set of which something is there), else 1.
"""

import argparse
import os
import sys
from itertools import chain

from eva02_det.data.check import check_files, check_named
from eva02_det.utils.errors import UserError, run_tool
from eva02_det.utils.files import write_json


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("names", nargs="*", metavar="NAME", help="for example coco_2017_val, lvis_v1_minival, objects365_train")
    options.add_argument("--data", metavar="FILE", help="an annotation file of your own in COCO's format; needs --images")
    options.add_argument("--images", metavar="DIR", help="folder of the images that --data names")
    depth = options.add_mutually_exclusive_group()
    depth.add_argument("--quick", dest="depth", action="store_const", const="exists", help="only look whether images exist")
    depth.add_argument(
        "--decode", dest="depth", action="store_const", const="decode", help="decode every image, not its header alone"
    )
    options.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes that open images (default: one a core)"
    )
    options.add_argument("--json", metavar="FILE", help="also write the whole report, every fault of an image included")
    options.set_defaults(depth="header")
    return options


def main() -> None:
    arguments = parser().parse_args()
    if bool(arguments.data) != bool(arguments.images):
        raise UserError("--data and --images belong together: the annotation file and the folder of its images")
    how = {"depth": arguments.depth, "workers": arguments.workers}
    own = [check_files(arguments.data, arguments.images, **how)] if arguments.data else []
    known = check_named(arguments.names, **how) if arguments.names or not arguments.data else ()
    reports = []
    for report in chain(own, known):
        print(*report.lines(), sep="\n", flush=True)
        reports.append(report)
    if arguments.json:
        write_json(arguments.json, [report.as_record() for report in reports], indent=1)
    asked_for = reports if arguments.names or arguments.data else [report for report in reports if not report.absent]
    sys.exit(0 if asked_for and all(report.is_usable for report in asked_for) else 1)


if __name__ == "__main__":
    run_tool(main)
