"""COCO's matching and average precision over results in COCO's format, by a fast backend or by the reference."""

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from eva02_det.utils.errors import UserError

# Axes of COCO's tables: T IoU thresholds, R recall levels, K categories, A object sizes, M detection limits.

BACKENDS = ("faster-coco-eval", "pycocotools")
SIZE_SUFFIXES = ("", "s", "m", "l")  # all, small, medium, large: the order of COCO's parameters

log = logging.getLogger(__name__)

Annotations = list[dict[str, Any]]


def run_coco(
    ground_truth: dict[str, Any],
    results: Annotations,
    task: str,
    *,
    max_detections: Sequence[int] = (1, 10, 100),
    backend: str = BACKENDS[0],
) -> Any:
    """Match and accumulate; the COCOeval object of the backend, whose `eval` and `params` hold the tables.

    ground_truth: content of an annotation file. results: COCO results; masks are ranked by "mask_score" where there is one.
    Neither is changed.
    """
    if backend == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval

    if task == "segm" and not has_masks(ground_truth):
        raise UserError("the ground truth has no masks, so only tasks=['bbox'] can be evaluated")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks
        truth = _indexed(COCO, ground_truth, _numbered_truth(ground_truth["annotations"]))
        found = _indexed(COCO, ground_truth, _detections(results, task))
        evaluation = COCOeval(truth, found, task)
        if backend != "pycocotools":
            evaluation.print_function = log.debug
        evaluation.params.maxDets = sorted(max_detections)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def summary(evaluation: Any) -> dict[str, float]:
    """The standard numbers in percent: AP, AP50, AP75, APs, APm, APl, AR<limit> ..., ARs, ARm, ARl; NaN where undefined."""
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]  # [T, R, K, A, M], [T, K, A, M]
    thresholds, limits = evaluation.params.iouThrs, evaluation.params.maxDets
    metrics = {"AP": _mean(precision[..., 0, -1])}
    for threshold in (50, 75):
        metrics[f"AP{threshold}"] = _mean(precision[np.isclose(thresholds, threshold / 100)][..., 0, -1])
    sizes = list(enumerate(SIZE_SUFFIXES))[1:]
    metrics |= {f"AP{suffix}": _mean(precision[..., index, -1]) for index, suffix in sizes}
    metrics |= {f"AR{limit}": _mean(recall[..., 0, index]) for index, limit in enumerate(limits)}
    metrics |= {f"AR{suffix}": _mean(recall[..., index, -1]) for index, suffix in sizes}
    return metrics


def class_ap(evaluation: Any) -> dict[int, float]:
    """AP in percent by category id; NaN for a category without ground truth."""
    precision = evaluation.eval["precision"][..., 0, -1]  # [T, R, K]
    return {int(category): _mean(precision[:, :, index]) for index, category in enumerate(evaluation.params.catIds)}


def has_masks(ground_truth: dict[str, Any]) -> bool:
    """Whether every annotation has a mask."""
    return all(annotation.get("segmentation") for annotation in ground_truth["annotations"])


def _mean(values: np.ndarray) -> float:
    """In percent, over what is defined: COCO writes -1 into its tables where there is no ground truth."""
    defined = values[values > -1]
    return 100 * float(defined.mean()) if defined.size else float("nan")


def _indexed(library: Any, ground_truth: dict[str, Any], annotations: Annotations) -> Any:
    """The backend's COCO object with these annotations on the images and categories of the ground truth."""
    coco = library()
    coco.dataset = {"images": ground_truth["images"], "categories": ground_truth["categories"], "annotations": annotations}
    coco.createIndex()
    return coco


def _numbered_truth(annotations: Annotations) -> Annotations:
    """Copies (backends write into them) numbered from 1: both backends take an annotation with id 0 for no match at all."""
    return [
        {"iscrowd": 0, "area": one["bbox"][2] * one["bbox"][3], **one, "id": number} for number, one in enumerate(annotations, 1)
    ]


def _detections(results: Annotations, task: str) -> Annotations:
    """Results as annotations. The size of a detection is that of its mask when masks are evaluated."""
    if task == "bbox":
        return [
            {**one, "id": number, "iscrowd": 0, "area": one["bbox"][2] * one["bbox"][3]} for number, one in enumerate(results, 1)
        ]
    # one by one: pycocotools 2.0.11 overflows on a list of more than 255 masks
    return [
        {
            **one,
            "score": one.get("mask_score", one["score"]),
            "id": number,
            "iscrowd": 0,
            "area": float(coco_mask.area(one["segmentation"])),
        }
        for number, one in enumerate(results, 1)
    ]
