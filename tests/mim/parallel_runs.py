"""Short runs of the nano recipe in several processes, one after the other: starting processes takes longer than the runs."""

import json
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from eva02_mim.train import Run
from tests.mim.nano_run import nano_config

WRAPPERS = {"ddp": DistributedDataParallel, "fsdp": FSDPModule}
SIZES = "sizes.json"  # numbers that the first process holds, numbers of the whole student


def pretrain(images: Path, runs: dict[Path, dict[str, Any]]) -> None:
    """Output folder -> changes of the nano recipe; a folder with a checkpoint is resumed."""
    torch.set_num_threads(1)
    for output, changes in runs.items():
        run = Run(nano_config(images, output, **changes))
        if comm.get_world_size() > 1:
            assert isinstance(run.student, WRAPPERS[changes.get("train__parallel", "ddp")])
        parameters = list(run.student.parameters())
        held = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in parameters)
        run.go(run.resume())
        if comm.is_main_process():
            (output / SIZES).write_text(json.dumps([held, sum(p.numel() for p in parameters)]))
