"""Makes the parts of a fine-tuning run from its config, and refuses what could only fail later."""

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from eva02_det.utils.config import get, load_config
from eva02_det.utils.errors import UserError
from eva02_mim import build
from eva02_mim.accuracy import Questions, Reading
from eva02_mim.beginning import begin_from
from eva02_mim.class_data import ClassBatches, open_classes, require_same_classes
from eva02_mim.classifier import Classifier
from eva02_mim.config import argument_parser
from eva02_mim.groups import frozen_decay, layer_of
from eva02_mim.labelled import ClassFolder, EvaluationCrop
from eva02_mim.loader import MimLoader
from eva02_mim.normalise import Normalise
from eva02_mim.precision import PRECISIONS
from eva02_mim.variants import VARIANTS

PARTS = ("model", "normalise", "dataloader", "optimizer", "schedule", "train")
SCRATCH = "scratch"  # what train.init_checkpoint says instead of a file
logger = logging.getLogger(__name__)


def finetune_parser() -> argparse.ArgumentParser:
    """The options of pre-training, and where the images are and what to evaluate."""
    parser = argument_parser()
    parser.description = "Fine-tune an EVA-02 encoder as a classifier on class folders, or evaluate one."
    parser.epilog = (
        "Overrides a.b.c=value come last, for example train.init_checkpoint=eva02_B_pt_in21k_p14.pt train.epochs=10. On several "
        "machines start it with torchrun, or on each with --num-machines, --machine-rank and --dist-url."
    )
    parser.add_argument("--data", metavar="ROOT", help="holds train/<class>/<image> and val/<class>/<image>")
    parser.add_argument("--train-data", metavar="FOLDER", help="class folders to learn from, instead of ROOT/train")
    parser.add_argument("--val-data", metavar="FOLDER", help="class folders to evaluate on, instead of ROOT/val")
    parser.add_argument("--eval-only", action="store_true", help="score train.init_checkpoint, raw and averaged weights, and end")
    parser.add_argument(
        "--variant", metavar="NAME=FOLDER", action="append", default=[], help="with --eval-only: an ImageNet variant (Table 6)"
    )
    return parser


def load_recipe(options: argparse.Namespace) -> DictConfig:
    """The config of a fine-tuning run with what the command line says; UserError for a file that is none or a wrong value."""
    config = load_config(options.config_file, options.opts or ())
    missing = [part for part in PARTS if get(config, part) is None]
    if missing:
        raise UserError(
            f"{options.config_file} is no fine-tuning config, it lacks {', '.join(missing)}; start from "
            f"projects/eva02_mim/configs/classification"
        )
    for part, name, folder in (("train", "train", options.train_data), ("validation", "val", options.val_data)):
        if options.data and not Path(options.data, name).is_dir() and not folder:
            raise UserError(f"--data {options.data} holds no folder {name}; it needs train/<class>/... and val/<class>/...")
        folder = folder or (str(Path(options.data, name)) if options.data else None)
        if folder and get(config.dataloader, part) is None:
            raise UserError(f"the config has no dataloader.{part} to read {folder}; add one as in common/classification.py")
        if folder:
            config.dataloader[part].folder = folder
    check_settings(config, eval_only=options.eval_only)
    return config


def check_settings(config: DictConfig, *, eval_only: bool = False) -> None:
    """UserError for a value of `train` that cannot be."""
    settings = config.train
    if settings.precision not in PRECISIONS:
        raise UserError(f"train.precision={settings.precision} is not one of {', '.join(PRECISIONS)}")
    for key in ("batch", "accumulate", "log_period"):
        if settings[key] < 1:
            raise UserError(f"train.{key}={settings[key]} must be at least 1")
    if settings.max_steps is None and settings.epochs < 1:
        raise UserError(f"train.epochs={settings.epochs} must be at least 1, or set train.max_steps")
    if not settings.init_checkpoint or (eval_only and settings.init_checkpoint == SCRATCH):
        raise UserError(
            f"train.init_checkpoint names no weights; pass train.init_checkpoint=FILE"
            f"{'' if eval_only else f', or train.init_checkpoint={SCRATCH} to train without any'}"
        )
    build.device_of(config)


def open_train_data(config: DictConfig, *, rank: int, world: int) -> MimLoader[ClassBatches]:
    """Endless training batches of process `rank`."""
    share = build.share_of_batch(config, world)
    side, seed = image_size_of(config), config.train.seed
    node = config.dataloader.train
    return build.made_with(node, batch_size=share, image_size=side, seed=seed, rank=rank, world=world)


def open_validation(config: DictConfig, classes: ClassFolder | None = None) -> Questions | None:
    """Images to be scored on and their labels, None where the config has none; UserError unless the classes are `classes`'."""
    if get(config, "dataloader.validation") is None:
        return None
    found = open_classes(config.dataloader.validation.folder)
    if classes is not None:
        require_same_classes(classes, found)
    return Questions(found.source, np.arange(len(found.source)), found.labels[:, None], classes=len(found.classes))


def reading_of(config: DictConfig, normalise: Normalise, device: torch.device) -> Reading:
    """How images are shown in an evaluation. Its batch is of each process."""
    node = config.dataloader.validation
    crop = EvaluationCrop(node.crop_ratio)
    return Reading(image_size_of(config), crop, normalise, node.batch_size, node.workers, device, config.train.precision)


def image_size_of(config: DictConfig) -> int:
    """Pixels of a side."""
    return int(get(config, "model.image_size", 448))


def build_classifier(config: DictConfig, device: torch.device, classes: int | None) -> Classifier:
    """The classifier with the weights of `train.seed` on `device`; None: as many classes as the config says."""
    wanted = get(config, "model.num_classes")
    if wanted is None and classes is None:
        raise UserError("model.num_classes is null and there are no class folders to count; pass model.num_classes=N")
    if wanted is not None and classes is not None and wanted != classes:
        raise UserError(
            f"model.num_classes={wanted}, but there are {classes} class folders; pass model.num_classes={classes}, or null to "
            f"count them"
        )
    node = config.model.copy()
    node.num_classes = classes if wanted is None else wanted
    torch.manual_seed(config.train.seed)  # the same weights on all ranks
    try:
        return instantiate(node).to(device)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"the config's model cannot be built: {error}; correct model.*") from error


def begin(config: DictConfig, model: Classifier) -> None:
    """Fill the model from `train.init_checkpoint`."""
    settings = config.train
    if settings.init_checkpoint == SCRATCH:
        logger.info("the classifier begins without pre-trained weights")
        return
    begin_from(model, settings.init_checkpoint, which=settings.init_weights, new_head=True if settings.new_head else None)


def shrinking_weights(config: DictConfig, model: Classifier) -> list[tuple[nn.Parameter, float]]:
    """What `train.decay_frozen` is about: the frozen patch kernel, and its weight decay at a rate of 1."""
    params = config.optimizer.params
    if not config.train.decay_frozen:
        return []
    return frozen_decay(model, layer_decay=params.layer_decay, weight_decay=params.weight_decay)


def describe(config: DictConfig, processes: int) -> str:
    """What a run would do, in lines. Opens the data, builds no weights."""
    share = build.share_of_batch(config, processes)
    loader = open_train_data(config, rank=0, world=processes)
    folder = loader.dataset.folder
    questions = open_validation(config, folder)
    with torch.device("meta"):
        model = build_classifier(config, torch.device("meta"), len(folder.classes))
    steps, schedule = build.plan(config, loader.steps_per_epoch)
    settings, decay, depth = config.train, config.optimizer.params.layer_decay, len(model.blocks)
    lowest = min(decay ** (depth + 1 - layer_of(name, depth)) for name, p in model.named_parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    lines = {
        "model": f"{sum(p.numel() for p in model.parameters()):,} parameters ({frozen:,} frozen), {model.image_size} px",
        "begins from": settings.init_checkpoint,
        "data": f"{loader.images_per_epoch:,} images of {len(folder.classes):,} classes",
        "validation": "none" if questions is None else f"{len(questions.numbers):,} images",
        "steps": f"{steps:,} of {settings.batch} images, {loader.steps_per_epoch:,} in an epoch",
        "batch": f"{share} images in each of {processes} processes, in {settings.accumulate} parts",
        "learning rate": f"0 -> {schedule.peak:g} in {schedule.warmup:,} steps, then a cosine to {schedule.floor:g}",
        "layer decay": f"{decay:g}: factors from {lowest:.3g} to 1",
        "average": "none" if settings.ema.decay is None else f"of decay {settings.ema.decay:g}",
        "output": settings.output_dir,
    }
    width = max(map(len, lines))
    return "\n".join(f"{key:<{width}}  {text}" for key, text in lines.items())


def variants_of(options: argparse.Namespace) -> dict[str, str]:
    """Variant -> folder, of --variant NAME=FOLDER; UserError for a text of another form or a name that is unknown."""
    found = {}
    for text in options.variant:
        name, equals, folder = text.partition("=")
        if not equals or not folder or name not in VARIANTS:
            raise UserError(f"--variant {text}: write NAME=FOLDER, with NAME one of {', '.join(VARIANTS)}")
        found[name] = folder
    if found and not options.eval_only:
        raise UserError("--variant is for --eval-only; add that, with train.init_checkpoint=FILE")
    return found
