"""The usual start of a run: command line, folders, logs, seeds, writers, data parallelism."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from ..config import LazyConfig
from ..utils import comm
from ..utils.collect_env import collect_env_info
from ..utils.env import seed_all_rng
from ..utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from ..utils.file_io import PathManager
from ..utils.logger import setup_logger

__all__ = ["create_ddp_model", "default_argument_parser", "default_setup", "default_writers"]


def create_ddp_model(model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any) -> nn.Module:
    """Wrap a model for data parallelism where there are several processes; alone it comes back as it is.

    fp16_compression: send gradients in half precision. kwargs: of DistributedDataParallel.
    """
    if comm.get_world_size() == 1:
        return model
    if any(parameter.is_cuda for parameter in model.parameters()):
        kwargs.setdefault("device_ids", [comm.get_local_rank()])
    parallel = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        parallel.register_comm_hook(state=None, hook=fp16_compress_hook)
    return parallel


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Options of training tools. What is left over on the command line is in `opts`: overrides of the config."""
    script = os.path.basename(sys.argv[0])
    usage = f"example: {script} --config-file config.py --num-gpus 8 train.max_iter=1000 optimizer.lr=1e-4"
    parser = argparse.ArgumentParser(epilog=epilog or usage)
    parser.add_argument("--config-file", default="", metavar="FILE", help="the config, .py or .yaml")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="GPUs on each machine (without any: processes)")
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="machines of the run")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="I", help="number of this machine, from 0")
    meeting = f"tcp://127.0.0.1:{_own_port()}"
    parser.add_argument("--dist-url", default=meeting, metavar="URL", help="where the processes meet; auto: a free port")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="overrides of the config, key.of.config=value")
    return parser


def default_setup(cfg: Any, args: argparse.Namespace) -> None:
    """Make `train.output_dir`, log there, save the config as config.yaml, seed with `train.seed` + rank.

    A negative or absent seed means a new one each time. cuDNN tunes itself for training if `train.cudnn_benchmark`.
    """
    output_dir = OmegaConf.select(cfg, "train.output_dir", default="") or ""
    rank, is_main = comm.get_rank(), comm.is_main_process()
    if is_main and output_dir:
        PathManager.mkdirs(output_dir)
    for name in ("fvcore", "detectron2"):
        logger = setup_logger(output_dir or None, distributed_rank=rank, name=name)
    logger.info(f"process {rank} of {comm.get_world_size()}")
    logger.info(f"environment:\n{collect_env_info()}")
    logger.info(f"arguments: {args}")
    config_file = getattr(args, "config_file", "")
    if config_file:
        with PathManager.open(config_file, "r") as stream:
            logger.info(f"{config_file}:\n{stream.read()}")
    if is_main and output_dir:
        path = os.path.join(output_dir, "config.yaml")
        LazyConfig.save(cfg, path)
        logger.info(f"the whole config is in {path}")
    seed = OmegaConf.select(cfg, "train.seed", default=-1)
    seed_all_rng(None if seed is None or seed < 0 else seed + rank)
    if not getattr(args, "eval_only", False):  # images of an evaluation differ in size, and each size would be tuned for
        torch.backends.cudnn.benchmark = bool(OmegaConf.select(cfg, "train.cudnn_benchmark", default=False))


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """The line in the log, `metrics.json`, and TensorBoard."""
    PathManager.mkdirs(output_dir)
    metrics = os.path.join(output_dir, "metrics.json")
    return [CommonMetricPrinter(max_iter), JSONWriter(metrics), TensorboardXWriter(output_dir)]


def _own_port() -> int:
    """The same port for each run of a user, so that a run which was not stopped is noticed when the next starts."""
    user = os.getuid() if hasattr(os, "getuid") else 1
    return 2**15 + 2**14 + user % 2**14
