"""LVIS's federated average precision for boxes and masks."""

from collections.abc import Sequence

from eva02_det.evaluation.backends import DEFAULT
from eva02_det.evaluation.evaluator import BenchmarkEvaluator


class LvisEvaluator(BenchmarkEvaluator):
    """LVIS metrics in percent: {"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR", ...}, ...}.

    In each image only the categories that are annotated there, or stated to be absent, are looked at (federated annotation;
    LVIS, section 3). Box and mask AP each rank by the score of their kind, as in CocoEvaluator. AP by class goes to the files.
    """

    benchmark = "lvis"

    def __init__(
        self,
        dataset_name: str,
        *,
        tasks: Sequence[str] | None = None,
        output_dir: str | None = None,
        max_detections: int = 300,
        backend: str = DEFAULT,
        area_bins: str = "standard",
        image_ids: Sequence[int | str] | None = None,
        seen_only: bool = False,
        write_results: bool = False,
    ) -> None:
        """max_detections: of an image, over all classes (the benchmark's is 300; 1000 is published too). write_results: off,
        because the six million detections of a validation set make a file of gigabytes. Else as CocoEvaluator."""
        super().__init__(
            dataset_name,
            max_detections=[max_detections],
            tasks=tasks,
            output_dir=output_dir,
            backend=backend,
            area_bins=area_bins,
            image_ids=image_ids,
            seen_only=seen_only,
            write_results=write_results,
        )
