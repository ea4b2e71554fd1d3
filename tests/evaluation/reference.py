"""The benchmarks' own packages, called on annotation files and results as their authors do, for comparison."""

import contextlib
import copy
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from eva02_det.evaluation.references import lvis_evaluation

COCO_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR{0}", "AR{1}", "AR{2}", "ARs", "ARm", "ARl")
LVIS_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR", "ARs", "ARm", "ARl")


def percent(fraction: float) -> float:
    """The packages say -1 for undefined."""
    return float("nan") if fraction == -1 else 100 * float(fraction)


def coco_numbers(truth: dict, results: list[dict], task: str, limits: Sequence[int] = (1, 10, 100)) -> dict:
    """pycocotools. -> its twelve numbers by name and AP by category id."""
    truth, results = copy.deepcopy((truth, results))
    for number, one in enumerate(truth["annotations"], 1):
        one["id"] = number
    for one in results:
        one["score"] = one.pop("mask_score", one["score"]) if task == "segm" else one["score"]
        one.pop("bbox" if task == "segm" else "segmentation", None)
    with contextlib.redirect_stdout(io.StringIO()):
        known, found = COCO(), COCO()
        known.dataset = truth
        known.createIndex()
        found = known.loadRes(results) if results else _without_annotations(truth)
        evaluation = COCOeval(known, found, task)
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
    return _coco_summary(evaluation, limits)


def _coco_summary(evaluation: COCOeval, limits: Sequence[int]) -> dict:
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    values = [
        precision[..., 0, -1],
        precision[0, ..., 0, -1],
        precision[5, ..., 0, -1],
        *(precision[..., a, -1] for a in (1, 2, 3)),
    ]
    values += [recall[..., 0, m] for m in range(3)] + [recall[..., a, -1] for a in (1, 2, 3)]
    numbers = {name.format(*limits): _mean(value) for name, value in zip(COCO_NAMES, values)}
    return numbers | {int(c): _mean(precision[:, :, k, 0, -1]) for k, c in enumerate(evaluation.params.catIds)}


def lvis_numbers(folder: Path, truth: dict, results: list[dict], task: str, max_detections: int = 300) -> dict:
    """lvis-api, from files. -> its 13 numbers by name and AP by category id."""
    lvis = pytest.importorskip("lvis", exc_type=ImportError)
    file = folder / "lvis_reference.json"
    file.write_text(json.dumps(truth))
    results = copy.deepcopy(results)
    for one in results:
        one["score"] = one.pop("mask_score", one["score"]) if task == "segm" else one["score"]
        one.pop("bbox" if task == "segm" else "segmentation", None)
    found = folder / "lvis_results.json"
    found.write_text(json.dumps(results))
    known = lvis.LVIS(str(file))
    evaluation = lvis_evaluation()(known, lvis.LVISResults(known, str(found), max_dets=max_detections), task)
    evaluation.run()
    numbers = {name.split("@")[0]: percent(value) for name, value in evaluation.get_results().items()}
    precision = evaluation.eval["precision"]
    return numbers | {category: _mean(precision[:, :, k, 0]) for k, category in enumerate(evaluation.params.cat_ids)}


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return 100 * float(defined.mean()) if defined.size else float("nan")


def _without_annotations(truth: dict) -> COCO:
    empty = COCO()
    empty.dataset = {**truth, "annotations": []}
    empty.createIndex()
    return empty
