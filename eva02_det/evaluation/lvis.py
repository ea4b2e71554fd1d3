"""LVIS's federated average precision for boxes and masks."""

from typing import Any

from eva02_det.evaluation.evaluator import BenchmarkEvaluator


class LvisEvaluator(BenchmarkEvaluator):
    """LVIS metrics in percent: {"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR", ...}, ...}.

    In each image only the categories that are annotated there, or stated to be absent, are looked at (federated annotation;
    LVIS, section 3). AP by class goes to the files alone.
    """

    benchmark = "lvis"

    def __init__(self, dataset_name: str, *, max_detections: int = 300, write_results: bool = False, **options: Any) -> None:
        """max_detections: of an image, over all classes (the benchmark's is 300; 1000 is published too). write_results: off,
        because the six million detections of a validation set make a file of gigabytes. options: those of BenchmarkEvaluator."""
        super().__init__(dataset_name, max_detections=[max_detections], write_results=write_results, **options)
