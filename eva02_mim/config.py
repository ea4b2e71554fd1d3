"""What a pre-training run does before it computes: its command line, its config, its folder and its log."""

import argparse
import logging
from pathlib import Path

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from eva02_det import _provider
from eva02_det.utils.config import get, load_config
from eva02_det.utils.errors import UserError
from eva02_mim import build
from eva02_mim.groups import decay_groups

CONFIG_FILE = "config.yaml"
PARTS = ("student", "teacher", "normalise", "dataloader", "optimizer", "schedule", "train")
logger = logging.getLogger(__name__)


def argument_parser() -> argparse.ArgumentParser:
    """--config-file, --resume, --dry-run, the options of starting several processes, and overrides."""
    parser = argparse.ArgumentParser(
        description="Pre-train a student by masked image modelling.",
        epilog="Overrides a.b.c=value come last, for example train.output_dir=runs/b dataloader.train.source.spec=/data/in21k. "
        "On several machines start it with torchrun, or on each with --num-machines, --machine-rank and --dist-url.",
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="such as projects/eva02_mim/configs/b_in21k.py")
    parser.add_argument("--resume", action="store_true", help="go on after the newest checkpoint of train.output_dir")
    parser.add_argument("--dry-run", action="store_true", help="say what the run would do, and end")
    parser.add_argument("--num-gpus", type=int, default=1, help="of this machine; processes, where there is no GPU (default 1)")
    parser.add_argument("--num-machines", type=int, default=1, help="default 1")
    parser.add_argument("--machine-rank", type=int, default=0, help="of this machine, from 0")
    parser.add_argument("--dist-url", default="auto", help="where several machines meet: tcp://first-machine:port")
    parser.add_argument("opts", nargs="*", metavar="a.b.c=value", help="overrides of the config")
    return parser


def load_recipe(file: str | Path, overrides: list[str] | None = None) -> DictConfig:
    """The config of a pre-training run; UserError for a file that is none, an unknown key or a value that cannot be."""
    config = load_config(file, overrides or ())
    missing = [part for part in PARTS if get(config, part) is None]
    if missing:
        raise UserError(f"{file} is no pre-training config, it lacks {', '.join(missing)}; start from projects/eva02_mim/configs")
    build.check_settings(config)
    return config


def set_up(config: DictConfig) -> None:
    """Make the folder of the run, log to it and save its config there."""
    folder = Path(config.train.output_dir)
    if comm.is_main_process():
        folder.mkdir(parents=True, exist_ok=True)
    comm.synchronize()
    for package in ("eva02_mim", "eva02_det"):
        setup_logger(str(folder), distributed_rank=comm.get_rank(), name=package)
    logger.info(_provider.describe())
    if comm.is_main_process():
        LazyConfig.save(config, str(folder / CONFIG_FILE))


def describe(config: DictConfig, processes: int) -> str:
    """What a run would do, in lines: student, teacher, data, steps, rates and batch. Opens the data, builds no weights."""
    with torch.device("meta"):
        student = instantiate(config.student)
    groups = [sum(p.numel() for p in group["params"]) for group in decay_groups(student, weight_decay=1.0)]
    share = build.share_of_batch(config, processes)
    loader, validation = build.open_data(config, rank=0, world=processes)
    build.require_match(student, loader)
    steps, schedule = build.plan(config, loader.steps_per_epoch)
    settings, masks = config.train, loader.dataset.masks
    lines = {
        "student": f"{sum(groups):,} parameters ({groups[1]:,} decayed), {student.image_size} px, {student.num_patches} patches",
        "teacher": ", ".join(f"{key}={value}" for key, value in config.teacher.items() if key != "_target_"),
        "data": f"{loader.images_per_epoch:,} images an epoch",
        "validation": "none" if validation is None else f"{len(validation.dataset.source):,} images",
        "masks": f"at most {masks.count} of {masks.grid**2} patches",
        "steps": f"{steps:,} of {settings.batch} images, {loader.steps_per_epoch:,} in an epoch",
        "batch": f"{share} images in each of {processes} processes, in {settings.accumulate} parts",
        "learning rate": f"0 -> {schedule.peak:g} in {schedule.warmup:,} steps, then a cosine to {schedule.floor:g}",
        "step": f"{settings.precision}, {settings.parallel}, gradient norm at most {settings.clip_grad_norm}",
        "output": f"{settings.output_dir}, a checkpoint every {settings.checkpoints.period:,} steps",
    }
    width = max(map(len, lines))
    return "\n".join(f"{key:<{width}}  {text}" for key, text in lines.items())
