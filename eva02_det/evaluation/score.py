"""Scores written predictions again, without a model: `python -m eva02_det.evaluation.score FOLDER`, or a file of results."""

import argparse
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import eva02_det  # noqa: F401  activates the provider of detectron2
from eva02_det.evaluation.backends import DEFAULT
from eva02_det.evaluation.halves import HALVES, half
from eva02_det.evaluation.metrics import Metrics
from eva02_det.evaluation.predictions import read_results
from eva02_det.evaluation.rules import AREA_BINS, BENCHMARKS, TASKS
from eva02_det.evaluation.scoring import InMemory, score
from eva02_det.evaluation.shards import Description, Shards, read_description
from eva02_det.evaluation.truth import read_truth
from eva02_det.utils.errors import UserError, run_tool

USUAL_LIMITS = {"coco": [1, 10, 100], "lvis": [300]}


def score_folder(folder: str | Path, *, out: str | Path | None = None, **changes: Any) -> dict[str, Metrics]:
    """Score what an evaluator left in its output_dir. -> {task: metrics}, also written to `out`, else to the folder itself.

    changes: fields of Description to set otherwise than the evaluator did, e.g. backend="pycocotools", area_bins="fine".
    """
    description = replace(read_description(folder), **changes)
    read_masks = description.write_results or "segm" in (description.tasks or TASKS)
    shards = Shards(folder, description.ranks, read_masks=read_masks)
    return score(description, shards, out or folder)


def score_results(
    results: str | Path, annotations: str | Path, benchmark: str, *, out: str | Path | None = None, **changes: Any
) -> dict[str, Metrics]:
    """Score a file in COCO's or LVIS's result format. changes: as for `score_folder`."""
    truth = read_truth(str(annotations), federated=benchmark == "lvis", masks=False)
    categories = truth.category_ids.tolist()
    description = Description(
        benchmark=benchmark,
        dataset=Path(annotations).stem,
        annotation_file=str(annotations),
        ranks=1,
        max_detections=USUAL_LIMITS[benchmark],
        split="minival" if "minival" in Path(annotations).stem else None,
        category_ids=categories,
    )
    predictions = read_results(results, dict(enumerate(categories)))
    return score(replace(description, **changes), InMemory([predictions]), out)


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    options = argparse.ArgumentParser(prog="score", description="Score predictions again, without a model.")
    options.add_argument("predictions", help="output folder of an evaluation, or a JSON file of COCO or LVIS results")
    options.add_argument("--annotations", metavar="FILE", help="the annotation file; needed for a JSON file")
    options.add_argument("--benchmark", choices=BENCHMARKS, help="needed for a JSON file")
    options.add_argument("--tasks", nargs="+", choices=TASKS, help="default: boxes, and masks where both sides have them")
    options.add_argument("--max-detections", nargs="+", type=int, help="COCO: limits per image and class; LVIS: one per image")
    options.add_argument("--area-bins", choices=AREA_BINS, help="fine: 13 finer sizes beside small, medium and large")
    images = options.add_mutually_exclusive_group()
    images.add_argument("--image-ids", metavar="FILE", help="JSON list of the images that count")
    images.add_argument("--half", choices=HALVES, help="one of two fixed halves of the images alone counts")
    options.add_argument("--seen-only", action="store_const", const=True, help="only images with predictions count")
    options.add_argument("--backend", help=f"who computes (default {DEFAULT}); pycocotools and lvis are the slow references")
    options.add_argument("--write-results", action="store_const", const=True, help="write the predictions as one JSON file too")
    options.add_argument("--out", metavar="DIR", help="where results.json, results.csv and evaluation.json go")
    return options


def main() -> None:
    """The command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    chosen = vars(parser().parse_args())
    source, annotations, benchmark = Path(chosen.pop("predictions")), chosen.pop("annotations"), chosen.pop("benchmark")
    out, which = chosen.pop("out"), chosen.pop("half")
    changes = {name: value for name, value in chosen.items() if value is not None}
    if "max_detections" in changes:
        changes["max_detections"].sort()
    if "image_ids" in changes:
        changes["image_ids"] = read_image_ids(changes["image_ids"])
    if which:
        file = annotations or (read_description(source).annotation_file if source.is_dir() else "")
        changes["image_ids"] = half(read_truth(str(file), masks=False).image_ids.tolist(), which)
    if source.is_dir():
        score_folder(source, out=out, **changes, **({"annotation_file": annotations} if annotations else {}))
        return
    if not annotations or not benchmark:
        raise UserError(f"to score {source}, which is no folder, give --annotations FILE and --benchmark coco or lvis")
    score_results(source, annotations, benchmark, out=out, **changes)


def read_image_ids(file: str) -> list[int | str]:
    """The JSON list of `--image-ids`."""
    try:
        ids = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"--image-ids {file} cannot be read ({error}); give a JSON list of image ids") from error
    if not isinstance(ids, list):
        raise UserError(f"--image-ids {file} holds no list; give a JSON list of image ids")
    return ids


if __name__ == "__main__":
    run_tool(main)
