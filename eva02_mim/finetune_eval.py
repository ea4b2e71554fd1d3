"""Scores a classifier that is there: on the validation images of a config, and on the variants of ImageNet (Table 6)."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from detectron2.utils import comm
from omegaconf import DictConfig

from eva02_det.checkpoint.hub import find_file
from eva02_det.checkpoint.io import read_file, state_dict_of
from eva02_det.checkpoint.tables import AVERAGES
from eva02_det.utils.config import get
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_json
from eva02_mim import build
from eva02_mim import finetune_build as parts
from eva02_mim.accuracy import score_all
from eva02_mim.beginning import begin_from
from eva02_mim.classifier import Classifier
from eva02_mim.evaluations import EMA, RAW, RESULTS, Scores, rows_of, table
from eva02_mim.variants import evaluate_variant, summary

logger = logging.getLogger(__name__)


def evaluate_checkpoint(config: DictConfig, variants: Mapping[str, str] | None = None) -> dict[str, Scores]:
    """{"validation" or name of a variant: scores} of `train.init_checkpoint`, its raw weights and, where it has them, averaged.

    The result goes to results.json of `train.output_dir` and as a table to the log. variants: name -> folder, see
    `evaluate_variant`. Every rank must call this; each scores its part of the images, and no image is counted twice.
    """
    parts.check_settings(config, eval_only=True)
    device = build.device_of(config)
    questions = parts.open_validation(config)
    if questions is None and not variants:
        raise UserError("there is nothing to evaluate on; pass --val-data FOLDER or --variant NAME=FOLDER")
    normalise = instantiate(config.normalise).to(device)
    models = load_classifiers(config, None if questions is None else questions.classes)
    results: dict[str, Scores] = {}
    if questions is not None:
        results["validation"] = score_all(models, questions, parts.reading_of(config, normalise, device))
    options: dict[str, Any] = {
        "image_size": parts.image_size_of(config),
        "crop_ratio": get(config, "dataloader.validation.crop_ratio", 1.0),
        "batch_size": get(config, "dataloader.validation.batch_size", 64),
        "workers": get(config, "dataloader.validation.workers", 0),
        "device": device,
        "precision": config.train.precision,
    }
    for name, folder in (variants or {}).items():
        results[name] = {which: evaluate_variant(model, name, folder, **options) for which, model in models.items()}
    _report(results, Path(config.train.output_dir), bool(variants))
    return results


def load_classifiers(config: DictConfig, classes: int | None) -> dict[str, Classifier]:
    """{"raw": the classifier of `train.init_checkpoint`, "ema": its average, if the file has one}, every weight from the file."""
    source, device = config.train.init_checkpoint, build.device_of(config)
    content = read_file(find_file(source))
    averaged = any(isinstance(content.get(key), dict) for key in AVERAGES)
    if classes is None and get(config, "model.num_classes") is None:
        head = state_dict_of(content, source).get("head.weight")
        classes = None if head is None else len(head)
    models = {}
    for name, which in ((RAW, "model"), *([(EMA, "ema")] if averaged else [])):
        models[name] = parts.build_classifier(config, device, classes)
        begin_from(models[name], source, which=which, new_head=False)
    return models


def _report(results: dict[str, Scores], folder: Path, with_variants: bool) -> None:
    if not comm.is_main_process():
        return
    write_json(folder / RESULTS, results, indent=1)
    rows = [row for title, scores in results.items() for row in rows_of(title, {"scores": scores})]
    logger.info("results, also in %s:\n%s", folder / RESULTS, table(rows))
    if with_variants:
        for which in next(iter(results.values())):
            scores = {name: found[which] for name, found in results.items() if name != "validation"}
            logger.info("%s weights:\n%s", which, summary(scores))
