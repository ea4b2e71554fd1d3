"""Starts a run in one process, in several on this machine, or joins those that torchrun started."""

import argparse
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from eva02_det.utils.errors import UserError

TIMEOUT = timedelta(minutes=30)
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def under_torchrun() -> bool:
    """Whether torchrun (or anything that speaks its variables) started this process."""
    return all(name in os.environ for name in _TORCHRUN)


def start(main: Callable[..., Any], options: argparse.Namespace) -> None:
    """Run `main(options)` once per process.

    Options are those of detectron2's argument parser. On a machine without a GPU `--num-gpus N` means N
    processes on the CPU, connected by gloo. Ends with status 2 in every process on a `UserError`.
    """
    if under_torchrun():
        join_torchrun()
        try:
            _guarded(main, options)
        finally:
            if dist.is_initialized():  # unless the run has left it
                dist.destroy_process_group()
        return
    _check(options)
    if options.num_gpus * options.num_machines <= 1:
        main(options)
        return
    try:
        launch(
            _guarded,
            options.num_gpus,
            num_machines=options.num_machines,
            machine_rank=options.machine_rank,
            dist_url=options.dist_url,
            args=(main, options),
            timeout=TIMEOUT,
        )
    except ProcessExitedException as stopped:
        sys.exit(stopped.exit_code)


def join_torchrun() -> None:
    """Initialise the process group from torchrun's variables: nccl on GPUs, gloo without."""
    local_rank = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))


def leave() -> None:
    """End the process group, in all ranks at the same time: what follows concerns each process alone and keeps no other waiting.

    From here on every process takes itself for the main one.
    """
    if dist.is_initialized():
        comm.synchronize()
        dist.destroy_process_group()


def share_cores(processes: int) -> None:
    """Without a GPU, give each of the processes of this machine its part of the cores; more threads than cores only wait."""
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def _check(options: argparse.Namespace) -> None:
    available = torch.cuda.device_count()
    if available and options.num_gpus > available:
        raise UserError(f"--num-gpus {options.num_gpus}, but this machine has {available}; ask for at most {available}")
    if options.num_gpus < 1:
        raise UserError(f"--num-gpus {options.num_gpus} starts no process; pass 1 or more (processes, where there is no GPU)")
    if not 0 <= options.machine_rank < options.num_machines:
        raise UserError(f"--machine-rank {options.machine_rank} is not below --num-machines {options.num_machines}")


def _guarded(main: Callable[..., Any], options: argparse.Namespace) -> None:
    """What each worker runs: bad input is said once, by the first process, and ends all of them with status 2."""
    share_cores(comm.get_local_size())
    try:
        main(options)
    except UserError as error:
        if comm.is_main_process():
            sys.stderr.write(f"error: {error}\n")
            sys.stderr.flush()
        sys.exit(2)
