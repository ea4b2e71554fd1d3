"""Evaluates a model on the test set of a config, with its raw weights, its averaged ones, or both."""

import logging
import math
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from eva02_det.engine.ema import PREFIX, ModelEma
from eva02_det.engine.stopping import Stop, StoppableLoader, ToldToStop
from eva02_det.launch import preemption
from eva02_det.utils.config import accepts, get
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_json
from eva02_det.utils.randomness import generators_kept

WEIGHTS = {"raw": ("",), "ema": (PREFIX,), "both": ("", PREFIX)}  # what stands before the tasks in the results

logger = logging.getLogger("eva02_det")

Results = dict[str, Any]


@dataclass(frozen=True)
class Pass:
    """One pass over the test set. `results` by task; None where the predictions in `folder` are still to be scored."""

    prefix: str
    folder: Path
    results: Results | None


class Evaluation:
    """The test loader and the evaluator of a config, built at the first use and kept for the next ones."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        if get(config, "dataloader.test") is None or get(config, "dataloader.evaluator") is None:
            raise UserError("the config has no dataloader.test or no dataloader.evaluator, so nothing can be evaluated; add both")

    @cached_property
    def loader(self) -> Any:
        return instantiate(self.config.dataloader.test)

    @cached_property
    def evaluator(self) -> Any:
        """The evaluator; it writes its predictions to `<train.output_dir>/inference` unless the config says where."""
        node = self.config.dataloader.evaluator
        if accepts(node, "output_dir") and node.get("output_dir") is None:
            node.output_dir = str(self.home)
        return instantiate(node)

    @cached_property
    def home(self) -> Path:
        """Folder of the last evaluation."""
        stated = get(self.config, "dataloader.evaluator.output_dir")
        return Path(stated) if stated else results_file(self.output_dir).parent

    @property
    def output_dir(self) -> str:
        """Folder of the run."""
        return get(self.config, "train.output_dir", "output")

    def open(self) -> None:
        """Build loader and evaluator: what is missing is found before the model is built."""
        self._require_enough_masks()
        self.loader  # noqa: B018

    def passes(
        self,
        model: nn.Module,
        folder: Path,
        *,
        which: str = "raw",
        average: ModelEma | None = None,
        stop: Stop = preemption.stop,
    ) -> list[Pass]:
        """Run the model over the test set once for each kind of weights; all ranks together.

        which: a key of WEIGHTS. average: what the model's weights are exchanged for; None where it has them already.
        An evaluator that can put scoring off writes its predictions below `folder`; all of them are there on return.
        stop: called where the run is told to stop meanwhile, with the weights of the training in the model.
        A training goes on afterwards with the random numbers that it would have drawn without.
        """
        done = []
        try:
            with generators_kept():
                for prefix in WEIGHTS[which]:
                    beside = folder / PREFIX.strip("/") if prefix and which == "both" else folder
                    with average.applied(model) if prefix and average is not None else nullcontext():
                        done.append(self._pass(model, prefix, beside))
        except ToldToStop as told:
            stop(told.notice)
        comm.synchronize()
        return done

    def _pass(self, model: nn.Module, prefix: str, folder: Path) -> Pass:
        later = hasattr(self.evaluator, "deferred")
        if later:
            self.evaluator.deferred, self.evaluator.output_dir = True, str(folder)
        if prefix:
            logger.info("evaluating the averaged weights")
        results = inference_on_dataset(model, StoppableLoader(self.loader), self.evaluator)
        return Pass(prefix, folder, None if later else results)

    def _require_enough_masks(self) -> None:
        """UserError where the heads leave out detections that the evaluator would count."""
        budget, evaluator = get(self.config, "model.roi_heads.mask_budget"), self.evaluator
        counted = max(getattr(evaluator, "max_detections", ()), default=0)
        if budget is None or not counted:
            return
        of_class = getattr(evaluator, "benchmark", "") == "coco"  # LVIS counts over all classes of an image
        kept = (None if of_class else budget.get("per_image")) or budget.get("per_class") or 0
        if kept < counted:
            unit = "image and class" if of_class else "image"
            limit = ", ".join(f"{key}={value}" for key, value in budget.items() if key.startswith("per_") and value)
            raise UserError(
                f"the evaluation counts {counted} detections per {unit}, but model.roi_heads.mask_budget has {limit}, which "
                f"would change its numbers; set the budget to {counted} per {unit}, or to null"
            )

    def report(self, results: Mapping[str, Any]) -> None:
        """Log the metrics and keep them in the results file of the run. For the main process."""
        if results:
            print_csv_format(OrderedDict(results))
            write_json(results_file(self.output_dir), without_nan(results), indent=1)


def prefixed(prefix: str, results: Mapping[str, Any]) -> Results:
    """The results by task, the tasks named for the weights they were got with."""
    return {prefix + task: metrics for task, metrics in results.items()}


def results_file(output_dir: str | Path) -> Path:
    """Where a run keeps the metrics of its last evaluation."""
    return Path(output_dir) / "inference" / "results.json"


def without_nan(value: Any) -> Any:
    """JSON has no NaN: what is undefined becomes null."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def with_nan(value: Any) -> Any:
    """What `without_nan` made of it, undone."""
    if isinstance(value, Mapping):
        return {key: with_nan(item) for key, item in value.items()}
    return math.nan if value is None else value
