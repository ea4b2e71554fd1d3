"""What a run does before it computes: its command line, its folder, its log and its seed."""

import argparse
import logging

from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from eva02_det import _provider
from eva02_det.utils.config import get

logger = logging.getLogger(__name__)


def argument_parser() -> argparse.ArgumentParser:
    """detectron2's options: --config-file --resume --eval-only --num-gpus --num-machines --machine-rank --dist-url, overrides."""
    return default_argument_parser()


def set_up(config: DictConfig, options: argparse.Namespace) -> None:
    """Make the run folder, log to it, say what runs where, save the resolved config, seed every rank."""
    default_setup(config, options)
    setup_logger(str(get(config, "train.output_dir", "output")), distributed_rank=comm.get_rank(), name="eva02_det")
    logger.info(_provider.describe())
