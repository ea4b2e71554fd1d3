"""From a model, or from the predictions of an evaluation, to files for a test server that were looked at before they are sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import MetadataCatalog
from omegaconf import DictConfig

from eva02_det.data.registration import find_dataset, register_builtin
from eva02_det.engine.train import predict
from eva02_det.evaluation.halves import half
from eva02_det.evaluation.shards import read_description
from eva02_det.evaluation.submission import BOX_DECIMALS, Written, write_submission
from eva02_det.evaluation.submission_check import Checked, check_submission, expectations
from eva02_det.evaluation.truth import read_truth
from eva02_det.utils.config import get
from eva02_det.utils.errors import UserError


@dataclass(frozen=True)
class Submission:
    """What is to be written. None: as many detections as the server takes; boxes, and masks where there are any."""

    out: Path
    algorithm: str
    tasks: Sequence[str] | None = None
    per_image: int | None = None
    box_decimals: int = BOX_DECIMALS
    half: str | None = None  # of a validation set, where no server takes a test set

    def write(self, folder: str | Path) -> tuple[list[Written], list[Checked]]:
        """Write the predictions in an evaluation's folder, then read back and check what was written."""
        description = read_description(folder)
        image_ids = None
        if self.half is not None:
            image_ids = half(read_truth(description.annotation_file, masks=False).image_ids.tolist(), self.half)
        written = write_submission(
            folder,
            self.out,
            self.algorithm,
            tasks=self.tasks,
            per_image=self.per_image,
            box_decimals=self.box_decimals,
            image_ids=image_ids,
        )
        expected = expectations(
            description.annotation_file,
            description.benchmark,
            description.dataset,
            per_image=self.per_image,
            which_half=self.half,
        )
        return written, [check_submission(one.zip_file, expected, task=one.task) for one in written]


def overrides(dataset: str | None, out: Path) -> list[str]:
    """What turns the evaluation of a config into the one pass that a submission needs, in the folder `out`."""
    named = [f"dataloader.test.dataset.names={dataset}"] if dataset else []
    return [*named, f"train.output_dir={out}", f"dataloader.evaluator.output_dir={out / 'inference'}"]


def find(config: DictConfig) -> Path | None:
    """Run the model over the test set once; the folder of the predictions in the main process, None in the others."""
    if get(config, "train.ema.eval_only") == "both":
        raise UserError("a submission is of one set of weights; pass train.ema.eval_only=ema or train.ema.eval_only=raw")
    _, passes = predict(config)
    return passes[0].folder if passes else None


def annotation_file(dataset: str) -> str:
    """Of a data set that is registered or can be by the layout of its folder."""
    register_builtin()
    find_dataset(dataset)
    file = MetadataCatalog.get(dataset).get("json_file")
    if not file or not Path(file).is_file():
        raise UserError(f"data set {dataset} has no file {file}; set DETECTRON2_DATASETS, or give --annotations FILE")
    return str(file)
