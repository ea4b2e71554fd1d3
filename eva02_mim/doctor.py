"""What a pre-training run would find here, for tools/doctor.py: memory, the size of a checkpoint, a loader to measure."""

import copy
from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig

from eva02_det.launch.finding import FAULT, NOTE, Finding
from eva02_det.utils.errors import UserError
from eva02_mim import build
from eva02_mim.dry_run import GIB, describe

MEASURED_WORKERS = 2


def check_memory(config: DictConfig, processes: int) -> Finding:
    """The estimate of the dry run, from below."""
    try:
        lines = describe(copy.deepcopy(config), processes).splitlines()
    except UserError as error:
        return Finding("GPU memory", FAULT, str(error), "see --dry-run of tools/pretrain.py")
    found = next(line for line in lines if line.startswith("memory"))
    return Finding("GPU memory", NOTE, found.removeprefix("memory").strip())


def checkpoint_gib(config: DictConfig) -> float:
    """Weights and two moments in fp32."""
    return 12 * sum(p.numel() for p in build.outline_student(config).parameters()) / GIB


def open_train_loader(config: DictConfig) -> Iterable[Any]:
    """The training loader of the config in one process, with few workers."""
    config = copy.deepcopy(config)
    config.dataloader.train.workers = min(MEASURED_WORKERS, config.dataloader.train.workers)
    loader, _ = build.open_data(config, rank=0, world=1)
    return loader
