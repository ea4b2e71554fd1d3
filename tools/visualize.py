#!/usr/bin/env python3
"""Draw ground truth and detections of a data set into a folder of pictures and one page, index.html.

python tools/visualize.py --data coco_2017_val --predictions output/coco_instances_results.json --out output/pictures
python tools/visualize.py --json scenes/annotations/instances_val.json --images scenes/val --out output/pictures
"""

import argparse

from eva02_det.report.collect import coco_files, read_results, registered
from eva02_det.report.page import visualize
from eva02_det.utils.errors import UserError, run_tool


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    source = options.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="NAME", help="a data set below DETECTRON2_DATASETS, for example coco_2017_val")
    source.add_argument("--json", metavar="FILE", help="a COCO-style annotation file; needs --images")
    options.add_argument("--images", metavar="DIR", help="folder of the pictures that --json names")
    options.add_argument("--predictions", metavar="FILE", help="COCO result file to draw beside the ground truth")
    options.add_argument("--out", metavar="DIR", required=True, help="folder to write to")
    options.add_argument("--limit", type=int, default=50, help="most images to draw (default 50)")
    options.add_argument("--score-threshold", type=float, default=0.5, help="least score of a drawn detection (default 0.5)")
    return options


def main() -> None:
    arguments = parser().parse_args()
    if arguments.json and not arguments.images:
        raise UserError("--json also needs --images, the folder of the pictures that the file names")
    source = registered(arguments.data) if arguments.data else coco_files(arguments.json, arguments.images)
    results = read_results(arguments.predictions) if arguments.predictions else None
    page = visualize(source, arguments.out, results=results, limit=arguments.limit, score_threshold=arguments.score_threshold)
    print(page)


if __name__ == "__main__":
    run_tool(main)
