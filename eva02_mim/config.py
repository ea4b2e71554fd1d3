"""What a pre-training run does before it computes: its command line, its config, its folder and its log."""

import argparse
import logging
from pathlib import Path

from detectron2.config import LazyConfig
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from eva02_det import _provider
from eva02_det.utils.config import get, load_config
from eva02_det.utils.errors import UserError
from eva02_mim import build

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
    add_processes(parser)
    return parser


def add_processes(parser: argparse.ArgumentParser) -> None:
    """The options that `eva02_det.launch.process_group.start` reads, and the overrides of the config that follow them all."""
    parser.add_argument("--num-gpus", type=int, default=1, help="of this machine; processes, where there is no GPU (default 1)")
    parser.add_argument("--num-machines", type=int, default=1, help="default 1")
    parser.add_argument("--machine-rank", type=int, default=0, help="of this machine, from 0")
    parser.add_argument("--dist-url", default="auto", help="where several machines meet: tcp://first-machine:port")
    parser.add_argument("opts", nargs="*", metavar="a.b.c=value", help="overrides of the config")


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
    folder = Path(config.train.output_dir).absolute()  # loggers are kept by the name of their folder
    if comm.is_main_process():
        folder.mkdir(parents=True, exist_ok=True)
    comm.synchronize()
    for package in ("eva02_mim", "eva02_det"):
        setup_logger(str(folder), distributed_rank=comm.get_rank(), name=package)
    logger.info(_provider.describe())
    if comm.is_main_process():
        LazyConfig.save(config, str(folder / CONFIG_FILE))
