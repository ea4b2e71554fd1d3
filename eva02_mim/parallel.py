"""The student on several processes: replicated (DDP) or sharded (FSDP2)."""

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from eva02_det.utils.errors import UserError
from eva02_mim.encoder import TrVEncoder

STRATEGIES = ("ddp", "fsdp")


def distribute(student: TrVEncoder, strategy: str, device: torch.device) -> nn.Module:
    """The student as the step calls it; itself in a process that is alone.

    "ddp": every process holds all weights. "fsdp": every process holds its part of each block's weights, gradients and
    moments (FSDP2), gathered in fp32 when the block runs, so that both strategies compute the same.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"train.parallel={strategy} is not one of {', '.join(STRATEGIES)}")
    if comm.get_world_size() == 1:
        return student
    if strategy == "ddp":
        ids = [device.index if device.index is not None else torch.cuda.current_device()] if device.type == "cuda" else None
        return DistributedDataParallel(student, device_ids=ids, gradient_as_bucket_view=True)  # it has no buffers to share
    mesh = init_device_mesh(device.type, (comm.get_world_size(),))
    for block in student.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(student, mesh=mesh)
    return student


def bare(student: nn.Module) -> nn.Module:
    """The student inside DDP's wrapper; a sharded one is its own."""
    return student.module if isinstance(student, DistributedDataParallel) else student


def is_sharded(student: nn.Module) -> bool:
    """Whether each forward needs all processes."""
    return isinstance(student, FSDPModule)


def gradient_exchange(student: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """Around forward and backward of a micro-batch: gradients travel once a step, after the last one."""
    if isinstance(student, FSDPModule):
        student.set_requires_gradient_sync(last)
    elif isinstance(student, DistributedDataParallel) and not last:
        return student.no_sync()
    return contextlib.nullcontext()


def whole(value: Tensor) -> Tensor:
    """A plain tensor of a possibly sharded one."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def any_rank(flag: Tensor) -> Tensor:
    """Bools on the device -> whether each is true on any rank, on the device."""
    if comm.get_world_size() == 1:
        return flag
    shared = flag.float()
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return shared > 0


def sum_over_ranks(values: Tensor) -> Tensor:
    """Elementwise sum over all ranks, on the device."""
    if comm.get_world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values
