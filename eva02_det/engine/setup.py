"""What a run does before it computes: its command line, its config, its folder, its log and its seed."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from eva02_det import _provider
from eva02_det.engine.inputs import Files, folder_config, register_custom, use_custom_data, use_model_folder
from eva02_det.engine.model_folder import is_model_folder, load_folder
from eva02_det.engine.recipe import override_recipe
from eva02_det.engine.scaling import apply_scaling
from eva02_det.utils.config import get, load_config
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_bytes

CONFIG_FILE = "config.yaml"  # detectron2's name for the config in a run folder
logger = logging.getLogger(__name__)


def argument_parser() -> argparse.ArgumentParser:
    """detectron2's options (--config-file --resume --eval-only --num-gpus --num-machines --machine-rank --dist-url, overrides)
    and those for data, model and a dry run."""
    parser = default_argument_parser()
    parser.set_defaults(dist_url="auto")  # a free port: two runs on one machine do not meet
    parser.add_argument("--dry-run", action="store_true", help="say what the run would do and need, and end")
    parser.add_argument("--model", metavar="PATH", help="weights to start from or evaluate: a model folder or a checkpoint")
    parser.add_argument(
        "--data", metavar="FILE", help="train on this annotation file in COCO's format (evaluate, with --eval-only)"
    )
    parser.add_argument("--images", metavar="FOLDER", help="the images of --data")
    parser.add_argument("--val-data", metavar="FILE", help="evaluate on this annotation file")
    parser.add_argument("--val-images", metavar="FOLDER", help="the images of --val-data; by default those of --data")
    return parser


def configure(options: argparse.Namespace) -> tuple[DictConfig, list[str]]:
    """The config that a command line asks for, and what --data changed in it, a sentence each.

    Overrides come last, so that they change what --data and --model have set. With --eval-only a model folder brings its own
    architecture and test protocol, and a checkpoint of a run the config.yaml beside it: neither needs --config-file.
    UserError where the parts of the command line contradict each other.
    """
    weights, data = _weights(options), _data(options)
    exported = load_folder(weights) if weights and options.eval_only and is_model_folder(weights) else None
    file = options.config_file or (_config_beside(weights) if options.eval_only and exported is None else "")
    if file:
        config = load_config(file)
    elif exported is None:
        raise UserError("no config: pass --config-file FILE; only --eval-only with --model FOLDER goes without one")
    elif exported.dataset is None and data is None:
        raise UserError(f"{weights} names no test set; pass --data FILE --images FOLDER, or --config-file FILE")
    else:
        config = folder_config(exported)
    register_custom(config)
    if exported is not None:
        use_model_folder(config, exported)
    said = use_custom_data(config, *data, training=not options.eval_only) if data is not None else []
    if options.model:
        config.train.init_checkpoint = options.model
    return override_recipe(config, options.opts), said


def set_up(config: DictConfig, options: argparse.Namespace, said: Sequence[str] = ()) -> None:
    """Fit a training to the machine; make the run folder, log to it, save the config, seed every rank.

    What runs where is logged, and so is what was `said` about the config. An evaluation leaves the config.yaml of a training
    run as it is.
    """
    said = [*said, *([] if options.eval_only else apply_scaling(config, comm.get_world_size()))]
    output_dir = Path(get(config, "train.output_dir", "output"))
    saved = output_dir / CONFIG_FILE
    of_training = saved.read_bytes() if options.eval_only and saved.is_file() else None
    default_setup(config, options)
    if of_training is not None and comm.is_main_process():
        write_bytes(saved, of_training)
    setup_logger(str(output_dir), distributed_rank=comm.get_rank(), name="eva02_det")
    logger.info(_provider.describe())
    for sentence in said:
        logger.info(sentence)


def _weights(options: argparse.Namespace) -> str:
    """What --model or an override of train.init_checkpoint names; empty for neither."""
    key = "train.init_checkpoint="
    overrides = [text.removeprefix(key) for text in options.opts if text.startswith(key)]
    return overrides[-1] if overrides else options.model or ""


def _config_beside(weights: str) -> str:
    """The config.yaml of the run that wrote a checkpoint; empty where there is none."""
    file = Path(weights).parent / CONFIG_FILE
    return str(file) if Path(weights).is_file() and file.is_file() else ""


def _data(options: argparse.Namespace) -> tuple[Files, Files | None] | None:
    """(annotations, images) to train on and to evaluate on, from --data, --images, --val-data and --val-images."""
    if bool(options.data) != bool(options.images):
        raise UserError("--data and --images belong together: the annotation file and the folder of its images; give both")
    images = options.val_images or options.images
    if options.val_data and not images:
        raise UserError("--val-data needs --val-images, the folder of its images")
    val = (options.val_data, images) if options.val_data else None
    if options.data:
        return (options.data, options.images), val
    if val is not None and not options.eval_only:
        raise UserError("--val-data without --data: name the training data too, with --data and --images")
    return (val, None) if val is not None else None
