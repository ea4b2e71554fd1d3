"""COCO's average precision for boxes and masks, several ranks, one pass."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from tabulate import tabulate

from eva02_det.evaluation.average_precision import BACKENDS, class_ap, has_masks, run_coco, summary
from eva02_det.evaluation.predictions import ImagePredictions, coco_results, pack
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_json

TASKS = ("bbox", "segm")
RESULTS_FILE = "coco_instances_results.json"

log = logging.getLogger(__name__)

Metrics = dict[str, float]


class CocoEvaluator(DatasetEvaluator):
    """COCO metrics in percent under detectron2's names: {"bbox": {"AP", "AP50", ..., "AP-<class>"}, "segm": ...}.

    Boxes are ranked by `scores`, masks by `mask_scores` where the detector gives them, so that a calibration of the masks
    leaves box AP as it is. What COCO leaves undefined (a size or class without ground truth) is NaN.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        tasks: Sequence[str] | None = None,
        output_dir: str | None = None,
        max_detections: Sequence[int] = (1, 10, 100),
        backend: str = "faster-coco-eval",
        seen_only: bool = False,
    ) -> None:
        """tasks: of "bbox" and "segm"; None: both where the detector makes masks. output_dir: where to write the predictions.
        max_detections: limits per image and class, the last of which AP is for. backend: who computes; "pycocotools" is the
        slow reference. seen_only: score against the images that were evaluated, for a part of a data set; otherwise an image
        left out counts as one where nothing was found."""
        if backend not in BACKENDS:
            raise UserError(f"COCO evaluation has no backend {backend!r}; choose one of {', '.join(BACKENDS)}")
        if unknown := set(tasks or ()) - set(TASKS):
            raise UserError(f"COCO evaluation has no task {', '.join(sorted(unknown))}; choose from {', '.join(TASKS)}")
        if not isinstance(dataset_name, str):
            names = list(dataset_name)
            if len(names) != 1:
                raise UserError(f"one data set can be evaluated at a time, not {', '.join(names)}")
            dataset_name = names[0]
        self.dataset_name = dataset_name
        self.tasks = None if tasks is None else tuple(tasks)
        self.output_dir = output_dir
        self.max_detections = sorted(int(limit) for limit in max_detections)
        self.backend = backend
        self.seen_only = seen_only
        self._predictions: list[ImagePredictions] = []

    def reset(self) -> None:
        """Forget the predictions."""
        self._predictions = []

    def process(self, inputs: Iterable[Mapping[str, Any]], outputs: Iterable[Mapping[str, Any]]) -> None:
        """inputs: records with "image_id"; outputs: {"instances": Instances at the size of the original image}."""
        self._predictions += [
            pack(record["image_id"], output["instances"]) for record, output in zip(inputs, outputs, strict=True)
        ]

    def evaluate(self) -> dict[str, Metrics] | None:
        """Metrics by task on the main process, {} where the data set has no ground truth; None on the other ranks."""
        shares = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return None
        predictions = [one for share in shares for one in share]
        if not predictions:
            log.warning("no image of %s was evaluated", self.dataset_name)
            return {}
        results = coco_results(predictions, _Checked(self._category_ids, self.dataset_name))
        self._write(results)
        if "annotations" not in self.ground_truth:
            where = f"the predictions are in {self.output_dir}" if self.output_dir else "set output_dir to keep the predictions"
            log.warning("%s has no ground truth (a test set), so there is no AP; %s", self.dataset_name, where)
            return {}
        truth = self._part({one.image_id for one in predictions}) if self.seen_only else self.ground_truth
        return {task: self._metrics(truth, results, task) for task in self.tasks or self._inferred_tasks(predictions)}

    @cached_property
    def ground_truth(self) -> dict[str, Any]:
        """The annotation file of the data set, read when it is first needed, on the main process alone."""
        file = MetadataCatalog.get(self.dataset_name).get("json_file")
        if file is None:
            raise UserError(f"data set {self.dataset_name!r} has no annotation file to evaluate with; register it first")
        with PathManager.open(file) as stream:
            return json.load(stream)

    @property
    def _category_ids(self) -> dict[int, int]:
        """{class index: category id in the annotation file}."""
        ids = sorted(category["id"] for category in self.ground_truth["categories"])
        forward = MetadataCatalog.get(self.dataset_name).get("thing_dataset_id_to_contiguous_id")
        return dict(enumerate(ids)) if forward is None else {index: category for category, index in forward.items()}

    def _part(self, image_ids: set[Any]) -> dict[str, Any]:
        """The ground truth of some images."""
        images = [image for image in self.ground_truth["images"] if image["id"] in image_ids]
        annotations = [one for one in self.ground_truth["annotations"] if one["image_id"] in image_ids]
        return {**self.ground_truth, "images": images, "annotations": annotations}

    def _inferred_tasks(self, predictions: Sequence[ImagePredictions]) -> Sequence[str]:
        """Masks are scored where both sides have them."""
        both = predictions[0].runs is not None and has_masks(self.ground_truth)
        return TASKS if both else TASKS[:1]

    def _write(self, results: list[dict[str, Any]]) -> None:
        if self.output_dir:
            path = Path(self.output_dir) / RESULTS_FILE
            write_json(path, results)
            log.info("%d predictions written to %s", len(results), path)

    def _metrics(self, truth: dict[str, Any], results: list[dict[str, Any]], task: str) -> Metrics:
        evaluation = run_coco(truth, results, task, max_detections=self.max_detections, backend=self.backend)
        metrics = summary(evaluation)
        names = {category["id"]: category["name"] for category in truth["categories"]}
        by_class = {names[category]: value for category, value in class_ap(evaluation).items()}
        log.info("%s on %s, percent:\n%s", task, self.dataset_name, tabulate([metrics], headers="keys", floatfmt=".3f"))
        if len(by_class) > 1:
            log.info("%s AP by class:\n%s", task, _in_columns(by_class))
            metrics |= {f"AP-{name}": value for name, value in by_class.items()}
        return metrics


class _Checked(dict):
    """{class index: category id} that explains itself when the detector knows more classes than the data set."""

    def __init__(self, category_ids: Mapping[int, int], dataset_name: str) -> None:
        super().__init__(category_ids)
        self.dataset_name = dataset_name

    def __missing__(self, label: int) -> int:
        raise UserError(
            f"the model predicts class {label} but {self.dataset_name} has {len(self)} classes; set the model's num_classes to it"
        )


def _in_columns(metrics: Metrics, columns: int = 6) -> str:
    """A long table of two columns folded to fit a terminal."""
    cells = [cell for pair in metrics.items() for cell in pair]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return tabulate(rows, headers=["class", "AP"] * (columns // 2), floatfmt=".3f")
