"""What the evaluators of all benchmarks share: predictions to shards, shards to numbers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from eva02_det.evaluation.backends import DEFAULT, require_backend
from eva02_det.evaluation.metrics import Metrics
from eva02_det.evaluation.predictions import Predictions, join, pack
from eva02_det.evaluation.rules import AREA_BINS, TASKS
from eva02_det.evaluation.score import score_folder
from eva02_det.evaluation.scoring import InMemory, score
from eva02_det.evaluation.shards import Description, ShardWriter, each_image_once, write_description
from eva02_det.utils.errors import UserError

# bound what a rank holds: 300 masks of 300 bytes in each image are 90 MB, and soft-NMS without a cap leaves thousands in some
IMAGES_PER_PART, DETECTIONS_PER_PART = 1000, 300_000


class BenchmarkEvaluator(DatasetEvaluator):
    """With an output_dir, each rank writes a shard there and the main rank scores them all; without, they meet in memory.

    output_dir may be set anew before each pass. With `deferred` set, evaluate() only writes, and no rank waits for another:
    `score.score_folder(output_dir)` gives the numbers, in another process if need be.

    Boxes are ranked by `scores`, masks by `mask_scores` where the detector gives them, so that a calibration of the masks
    leaves box AP as it is. What a benchmark leaves undefined (a size or class without ground truth) is NaN.
    """

    benchmark = ""  # of rules.BENCHMARKS

    def __init__(
        self,
        dataset_name: str,
        *,
        max_detections: Sequence[int],
        write_results: bool,
        tasks: Sequence[str] | None = None,
        output_dir: str | None = None,
        backend: str = DEFAULT,
        area_bins: str = "standard",
        image_ids: Sequence[int | str] | None = None,
        seen_only: bool = False,
    ) -> None:
        """write_results: also one JSON file in COCO's format. tasks: of "bbox" and "segm"; None: both where the detector makes
        masks and the ground truth has them. output_dir: where predictions and numbers go. backend: who computes; see
        backends.py for its references. area_bins: "fine" for 13 finer sizes too. image_ids: the only images that count.
        seen_only: score against the images that were evaluated; otherwise an image left out counts as one where nothing was
        found."""
        require_backend(backend, self.benchmark == "lvis")
        if unknown := set(tasks or ()) - set(TASKS):
            raise UserError(f"there is no task {', '.join(sorted(unknown))}; choose from {', '.join(TASKS)}")
        if area_bins not in AREA_BINS:
            raise UserError(f"there are no area_bins {area_bins!r}; choose one of {', '.join(AREA_BINS)}")
        self.dataset_name = _single(dataset_name)
        self.max_detections = sorted(int(limit) for limit in max_detections)
        if self.max_detections[:1] < [1]:
            raise UserError(f"max_detections={list(max_detections)} must be at least 1")
        self.tasks = None if tasks is None else list(tasks)
        self.output_dir = output_dir
        self.backend = backend
        self.area_bins = area_bins
        self.image_ids = None if image_ids is None else list(image_ids)
        self.seen_only = seen_only
        self.write_results = write_results
        self.deferred = False
        self.reset()

    def reset(self) -> None:
        """Forget the predictions."""
        self._fresh: list[Predictions] = []
        self._held = 0  # detections in them
        self._writer: ShardWriter | None = None

    def process(self, inputs: Iterable[Mapping[str, Any]], outputs: Iterable[Mapping[str, Any]]) -> None:
        """inputs: records with "image_id"; outputs: {"instances": Instances at the size of the original image}."""
        fresh = [pack(record["image_id"], output["instances"]) for record, output in zip(inputs, outputs, strict=True)]
        self._fresh += fresh
        self._held += sum(map(len, fresh))
        if self.output_dir and (len(self._fresh) >= IMAGES_PER_PART or self._held >= DETECTIONS_PER_PART):
            self._flush()

    def evaluate(self) -> dict[str, Metrics] | None:
        """Metrics by task on the main process, {} where the data set has no ground truth; None on the other ranks.

        {} everywhere where `deferred` is set.
        """
        if not self.output_dir:
            return self._evaluate_in_memory()
        self._flush()
        self.writer.finish()
        if comm.is_main_process():
            write_description(self.output_dir, self.describe())
        if self.deferred:
            return {}
        comm.synchronize()  # all shards are there
        return score_folder(self.output_dir) if comm.is_main_process() else None

    def describe(self) -> Description:
        """All that the scoring needs beside the predictions."""
        known = MetadataCatalog.get(self.dataset_name)
        file = known.get("json_file")
        if file is None:
            raise UserError(f"data set {self.dataset_name!r} has no annotation file to evaluate with; register it first")
        forward = known.get("thing_dataset_id_to_contiguous_id")
        labels = None if forward is None else [category for category, _ in sorted(forward.items(), key=lambda pair: pair[1])]
        return Description(
            benchmark=self.benchmark,
            dataset=self.dataset_name,
            annotation_file=str(file),
            ranks=comm.get_world_size(),
            max_detections=self.max_detections,
            split=known.get("split") or _split(self.dataset_name),
            category_ids=labels,
            tasks=self.tasks,
            backend=self.backend,
            area_bins=self.area_bins,
            image_ids=self.image_ids,
            seen_only=self.seen_only,
            write_results=self.write_results,
        )

    @property
    def writer(self) -> ShardWriter:
        """Of this pass; the first use clears away what an earlier pass left."""
        if self._writer is None:
            self._writer = ShardWriter(str(self.output_dir), comm.get_rank(), comm.get_world_size())
            self._writer.clear()
        return self._writer

    def _flush(self) -> None:
        if self._fresh:
            self.writer.write(join(self._fresh))
            self._fresh, self._held = [], 0

    def _evaluate_in_memory(self) -> dict[str, Metrics] | None:
        if self.deferred:
            raise UserError("scoring can be deferred only where predictions are written; set the evaluator's output_dir")
        shares = comm.gather(join(self._fresh), dst=0)
        if not comm.is_main_process():
            return None
        return score(self.describe(), InMemory(each_image_once(shares)))


def _single(dataset_name: str | Iterable[str]) -> str:
    names = [dataset_name] if isinstance(dataset_name, str) else list(dataset_name)
    if len(names) != 1:
        raise UserError(f"one data set can be evaluated at a time, not {', '.join(names)}")
    return names[0]


def _split(name: str) -> str | None:
    """What part of its data set a name speaks of."""
    last = name.rpartition("_")[2]
    return last if last in ("train", "val", "minival", "test", "test-dev") else None
