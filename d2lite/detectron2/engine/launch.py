"""Starts the processes of a run on this machine."""

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ..utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple[Any, ...] = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Run `main_func(*args)` in `num_gpus_per_machine` processes of a group that spans `num_machines`.

    Each machine calls this with its `machine_rank`. nccl and one GPU a process where CUDA is there, otherwise gloo on the
    CPU. A run of one process is simply called. dist_url: where they meet, such as "tcp://host:port"; "auto" picks a free
    port, on one machine only. timeout: longest wait for other processes.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if not dist_url:
        raise ValueError(f"{world_size} processes need a dist_url to meet at; on one machine 'auto' will do")
    if dist_url == "auto":
        if num_machines != 1:
            raise ValueError("dist_url='auto' works on one machine; several need tcp://host:port of the first")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    settings = (main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout)
    mp.start_processes(_work, args=settings, nprocs=num_gpus_per_machine, start_method="spawn")


def _work(
    local_rank: int,
    main_func: Callable[..., Any],
    world_size: int,
    processes: int,
    machine_rank: int,
    dist_url: str,
    args: tuple[Any, ...],
    timeout: timedelta,
) -> None:
    """What each new process does."""
    on_gpu = torch.cuda.is_available()
    if on_gpu and processes > torch.cuda.device_count():
        raise ValueError(f"{processes} processes ask for a GPU each, and this machine has {torch.cuda.device_count()}")
    if on_gpu:
        torch.cuda.set_device(local_rank)
    dist.init_process_group(
        backend="nccl" if on_gpu else "gloo",
        init_method=dist_url,
        world_size=world_size,
        rank=machine_rank * processes + local_rank,
        timeout=timeout,
    )
    comm.create_local_process_group(processes)
    comm.synchronize()
    main_func(*args)
    if dist.is_initialized():  # not after an error: the others would fail of it sooner than the error is reported
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
