"""The benchmarks' own Python code, and a second fast library, to compare with and to fall back on."""

import contextlib
import io
import logging
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eva02_det.evaluation import backends
from eva02_det.evaluation.rules import Detections
from eva02_det.evaluation.truth import Truth
from eva02_det.utils.errors import UserError

log = logging.getLogger(__name__)

Annotations = list[dict[str, Any]]
TruthMasks = list[dict[str, Any]] | None
Areas = Mapping[str, tuple[float, float]]
Pair = tuple[NDArray[np.float64], NDArray[np.float64]]  # precision [T, R, K, A, M], recall [T, K, A, M]


def pycocotools(truth: Truth, found: Detections, masks: TruthMasks, task: str, limits: tuple[int, ...], areas: Areas) -> Pair:
    """COCO's reference; with LVIS's one further rule where the truth is federated."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    class Federated(COCOeval):
        """Does not blame a detector for what is there without being annotated."""

        incomplete: frozenset[tuple[int, int]] = frozenset()

        def evaluateImg(self, imgId: int, catId: int, *rest: Any) -> dict[str, Any] | None:
            matched = super().evaluateImg(imgId, catId, *rest)
            if matched is not None and (imgId, catId) in self.incomplete:
                matched["dtIgnore"] = matched["dtIgnore"].astype(bool) | (matched["dtMatches"] == 0)
            return matched

    with contextlib.redirect_stdout(io.StringIO()):  # it talks
        known = _indexed(COCO, truth, _truth_entries(truth, masks))
        evaluation = Federated(known, _indexed(COCO, truth, _found_entries(truth, found)), task)
        evaluation.incomplete = _incomplete(truth)
        return _run(evaluation, limits, areas)


def faster_coco_eval(
    truth: Truth, found: Detections, masks: TruthMasks, task: str, limits: tuple[int, ...], areas: Areas
) -> Pair:
    """The C++ re-implementation of COCO's reference."""
    from faster_coco_eval import COCO, COCOeval_faster

    known = _indexed(COCO, truth, _truth_entries(truth, masks))
    evaluation = COCOeval_faster(known, _indexed(COCO, truth, _found_entries(truth, found)), task, print_function=log.debug)
    return _run(evaluation, limits, areas)


def lvis(truth: Truth, found: Detections, masks: TruthMasks, task: str, limits: tuple[int, ...], areas: Areas) -> Pair:
    """LVIS's reference, package `lvis`."""
    try:
        from lvis import LVIS, LVISResults
    except ImportError as error:  # its pictures need libraries of the system
        raise UserError(f"package lvis cannot be imported ({error}); choose backend='hotcoco' or 'pycocotools'") from error

    known = _lvis_indexed(LVIS, truth, _truth_entries(truth, masks))
    results = _lvis_indexed(LVISResults, truth, _found_entries(truth, found))
    evaluation = lvis_evaluation()(known, results, task)
    evaluation.params.area_rng = [list(bounds) for bounds in areas.values()]
    evaluation.params.area_rng_lbl = [name or "all" for name in areas]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][..., None], evaluation.eval["recall"][..., None]


def lvis_evaluation() -> type:
    """LVIS's reference class, able to run: its accumulate() says np.float, which NumPy no longer has.

    The class here runs the same code with a NumPy that has it; the installed package stays as it is.
    """
    from lvis import eval as module

    accumulate = module.LVISEval.accumulate
    namespace = {**vars(module), "np": _NumpyWithFloat("numpy")}
    with_float: Callable[..., None] = FunctionType(accumulate.__code__, namespace, accumulate.__name__)
    return type("LVISEval", (module.LVISEval,), {"accumulate": with_float})


class _NumpyWithFloat(ModuleType):
    """NumPy as it was before version 1.24 in the one thing that LVIS's reference needs."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def _run(evaluation: Any, limits: tuple[int, ...], areas: Areas) -> Pair:
    evaluation.params.maxDets = list(limits)
    evaluation.params.areaRng = [list(bounds) for bounds in areas.values()]
    evaluation.params.areaRngLbl = [name or "all" for name in areas]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _indexed(library: Callable[[], Any], truth: Truth, annotations: Annotations) -> Any:
    """A library's COCO object with these annotations."""
    coco = library()
    coco.dataset = _dataset(truth, annotations)
    coco.createIndex()
    return coco


def _lvis_indexed(library: type, truth: Truth, annotations: Annotations) -> Any:
    """As `_indexed`; its own constructor reads files and cannot take an empty list."""
    lvis = library.__new__(library)
    lvis.logger = log
    lvis.dataset = _dataset(truth, annotations)
    lvis._create_index()
    return lvis


def _dataset(truth: Truth, annotations: Annotations) -> dict[str, Any]:
    images, categories = backends.image_entries(truth), backends.category_entries(truth)
    return {"images": images, "categories": categories, "annotations": annotations}


def _truth_entries(truth: Truth, masks: TruthMasks) -> Annotations:
    """Numbered from 1: to COCO's reference, an annotation with id 0 is no match at all."""
    entries = _entries(truth.image, truth.category, truth.boxes, truth.areas, masks)
    return [{**one, "iscrowd": int(crowd)} for one, crowd in zip(entries, truth.crowd.tolist())]


def _found_entries(truth: Truth, found: Detections) -> Annotations:
    entries = _entries(found.image, found.category, found.boxes, found.areas, backends.mask_entries(truth, found))
    return [{**one, "iscrowd": 0, "score": score} for one, score in zip(entries, found.scores.tolist())]


def _entries(image: Any, category: Any, boxes: Any, areas: Any, masks: TruthMasks) -> Annotations:
    columns = zip((image + 1).tolist(), (category + 1).tolist(), boxes.tolist(), areas.tolist())
    entries = [
        {"id": number, "image_id": one, "category_id": kind, "bbox": box, "area": area}
        for number, (one, kind, box, area) in enumerate(columns, 1)
    ]
    return entries if masks is None else [{**one, "segmentation": mask} for one, mask in zip(entries, masks)]


def _incomplete(truth: Truth) -> frozenset[tuple[int, int]]:
    if truth.incomplete is None:
        return frozenset()
    image, category = np.divmod(truth.incomplete, len(truth.category_ids))
    return frozenset(zip((image + 1).tolist(), (category + 1).tolist()))
