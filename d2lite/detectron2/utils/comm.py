"""Questions and exchanges between processes; every function also works in a process that is alone."""

import functools
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

T = TypeVar("T")
_local_group: Any = None  # processes of this machine, once created


def get_world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if _connected() else 1


def get_rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _connected() else 0


def get_local_rank() -> int:
    """Number of this process among those of its machine."""
    return dist.get_rank(group=get_local_process_group()) if _connected() else 0


def get_local_size() -> int:
    """Number of processes on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _connected() else 1


def is_main_process() -> bool:
    """True in the one process that writes files and talks."""
    return get_rank() == 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Group the processes of each machine. Every process calls this once, after init_process_group."""
    global _local_group  # noqa: PLW0603  the group belongs to the process
    if _local_group is not None:
        raise RuntimeError("the processes of this machine are grouped already")
    world = get_world_size()
    if world % num_workers_per_machine:
        raise ValueError(f"{world} processes do not make machines of {num_workers_per_machine} each")
    mine = get_rank() // num_workers_per_machine
    for machine in range(world // num_workers_per_machine):
        first = machine * num_workers_per_machine
        group = dist.new_group(list(range(first, first + num_workers_per_machine)))
        if machine == mine:
            _local_group = group


def get_local_process_group() -> Any:
    """The group that `create_local_process_group` made."""
    if _local_group is None:
        raise RuntimeError("call create_local_process_group after init_process_group (`launch` does both)")
    return _local_group


def synchronize() -> None:
    """Wait until every process has come here."""
    if get_world_size() == 1:
        return
    devices = [torch.cuda.current_device()] if dist.get_backend() == "nccl" else None
    dist.barrier(device_ids=devices)


def all_gather(data: T, group: Any = None) -> list[T]:
    """`data` of every process, by rank, in every process. Anything that can be pickled."""
    group = _host_group(group)
    size = dist.get_world_size(group) if group else 1
    if size == 1:
        return [data]
    everyone: list[Any] = [None] * size
    dist.all_gather_object(everyone, data, group=group)
    return everyone


def gather(data: T, dst: int = 0, group: Any = None) -> list[T]:
    """`data` of every process, by rank, in process `dst`; an empty list in the others."""
    group = _host_group(group)
    size = dist.get_world_size(group) if group else 1
    if size == 1:
        return [data]
    collected: list[Any] | None = [None] * size if dist.get_rank() == dst else None
    dist.gather_object(data, collected, dst=dst, group=group)
    return collected or []


def shared_random_seed() -> int:
    """One random number below 2**31 that all processes agree on; NumPy's generator of rank 0 draws it."""
    return all_gather(int(np.random.randint(2**31)))[0]


def _connected() -> bool:
    return dist.is_available() and dist.is_initialized()


def _host_group(group: Any) -> Any:
    """A group that can carry Python objects through host memory; None when this process is alone."""
    if get_world_size() == 1:
        return None
    return _gloo_group(dist.group.WORLD) if group is None else group


@functools.cache
def _gloo_group(world: Any) -> Any:
    return world if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
