"""Evaluates a model on the test set of a config."""

import math
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from eva02_det.utils.config import accepts, get
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_json


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
            node.output_dir = str(Path(get(self.config, "train.output_dir", "output")) / "inference")
        return instantiate(node)

    def __call__(self, model: nn.Module) -> OrderedDict[str, Any]:
        """Metrics by task, {"bbox": {"AP": ...}, ...} in percent, also in `results_file`; empty on all ranks but the first."""
        results = inference_on_dataset(model, self.loader, self.evaluator)
        if comm.is_main_process() and results:
            print_csv_format(results)
            write_json(results_file(get(self.config, "train.output_dir", "output")), _without_nan(results), indent=1)
        return results


def results_file(output_dir: str | Path) -> Path:
    """Where a run keeps the metrics of its last evaluation."""
    return Path(output_dir) / "inference" / "results.json"


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what is undefined becomes null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
