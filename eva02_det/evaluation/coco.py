"""COCO's average precision for boxes and masks, several ranks, one pass."""

from collections.abc import Sequence
from typing import Any

from eva02_det.evaluation.evaluator import BenchmarkEvaluator
from eva02_det.evaluation.outcome import RESULTS_FILE

__all__ = ["RESULTS_FILE", "CocoEvaluator"]


class CocoEvaluator(BenchmarkEvaluator):
    """COCO metrics in percent under detectron2's names: {"bbox": {"AP", "AP50", ..., "AP-<class>"}, "segm": ...}."""

    benchmark = "coco"

    def __init__(
        self,
        dataset_name: str,
        *,
        max_detections: Sequence[int] = (1, 10, 100),
        write_results: bool = True,
        **options: Any,
    ) -> None:
        """max_detections: limits per image and class, the last of which AP is for. options: those of BenchmarkEvaluator."""
        super().__init__(dataset_name, max_detections=max_detections, write_results=write_results, **options)
