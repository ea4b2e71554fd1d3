"""COCO's average precision for boxes and masks, several ranks, one pass."""

from collections.abc import Sequence

from eva02_det.evaluation.backends import DEFAULT
from eva02_det.evaluation.evaluator import BenchmarkEvaluator
from eva02_det.evaluation.outcome import RESULTS_FILE

__all__ = ["RESULTS_FILE", "CocoEvaluator"]


class CocoEvaluator(BenchmarkEvaluator):
    """COCO metrics in percent under detectron2's names: {"bbox": {"AP", "AP50", ..., "AP-<class>"}, "segm": ...}.

    Boxes are ranked by `scores`, masks by `mask_scores` where the detector gives them, so that a calibration of the masks
    leaves box AP as it is. What COCO leaves undefined (a size or class without ground truth) is NaN.
    """

    benchmark = "coco"

    def __init__(
        self,
        dataset_name: str,
        *,
        tasks: Sequence[str] | None = None,
        output_dir: str | None = None,
        max_detections: Sequence[int] = (1, 10, 100),
        backend: str = DEFAULT,
        area_bins: str = "standard",
        image_ids: Sequence[int | str] | None = None,
        seen_only: bool = False,
        write_results: bool = True,
    ) -> None:
        """tasks: of "bbox" and "segm"; None: both where the detector makes masks. output_dir: where predictions and numbers go.
        max_detections: limits per image and class, the last of which AP is for. backend: who computes; "pycocotools" is the
        slow reference. area_bins: "fine" for 13 finer sizes too. image_ids: the only images that count. seen_only: score against
        the images that were evaluated; otherwise an image left out counts as one where nothing was found. write_results:
        also one JSON file in COCO's format."""
        super().__init__(
            dataset_name,
            max_detections=max_detections,
            tasks=tasks,
            output_dir=output_dir,
            backend=backend,
            area_bins=area_bins,
            image_ids=image_ids,
            seen_only=seen_only,
            write_results=write_results,
        )
