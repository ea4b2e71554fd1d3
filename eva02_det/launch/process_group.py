"""Starts a run in one process, in several on this machine, or joins those that torchrun, SLURM or submitit started."""

import argparse
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from eva02_det.launch import cores, watchdog
from eva02_det.launch.meeting import meet
from eva02_det.launch.place import Place, find_place, under_torchrun
from eva02_det.utils.errors import LoneError, UserError

TIMEOUT = timedelta(minutes=30)
__all__ = ["TIMEOUT", "join", "join_torchrun", "leave", "processes", "start", "under_torchrun"]


def start(main: Callable[..., Any], options: argparse.Namespace) -> None:
    """Run `main(options)` once per process.

    Options are those of detectron2's argument parser. On a machine without a GPU `--num-gpus N` means N
    processes on the CPU, connected by gloo. Ends with status 2 in every process on a `UserError`, with 70 where a process
    was lost (see `watchdog`).
    """
    place = find_place()
    if place is not None and not _meets_by_itself(options):
        _check_alone(place, options)
        join(place)
        try:
            _guarded(main, options)
        finally:
            if dist.is_initialized():  # unless the run has left it
                dist.destroy_process_group()
        return
    _check(options)
    if options.num_gpus * options.num_machines <= 1:
        with watchdog.watching():
            main(options)
        return
    try:
        with _signals_passed_on():
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
        sys.exit(watchdog.report_lost(stopped))


def processes(options: argparse.Namespace) -> int:
    """How many processes the run has, or would have, on all machines together."""
    place = find_place()
    if place is not None and not _meets_by_itself(options):
        return place.world
    return int(options.num_gpus * options.num_machines)


def join(place: Place) -> None:
    """Initialise the process group at this place: nccl on GPUs, gloo without. UserError where the ranks do not meet."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(device_of(place.local_rank, torch.cuda.device_count()))
    if place.source == "torchrun":  # its agent has brought the ranks together
        dist.init_process_group(backend, timeout=TIMEOUT)
    else:
        os.environ.update(place.variables())
        store = dist.PrefixStore("run", meet(place))
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world, timeout=TIMEOUT)
    comm.create_local_process_group(place.local_world)


def join_torchrun() -> None:
    """Initialise the process group from torchrun's variables."""
    place = find_place()
    if place is None:
        raise UserError("this process was not started by torchrun")
    join(place)


def leave() -> None:
    """End the process group, in all ranks at the same time: what follows concerns each process alone and keeps no other waiting.

    From here on every process takes itself for the main one.
    """
    if dist.is_initialized():
        comm.synchronize()
        watchdog.stop()
        dist.destroy_process_group()


def device_of(local_rank: int, visible: int) -> int:
    """The GPU of a process, of those it sees: all of its machine, or its own alone where SLURM hides the others."""
    if visible == 1:
        return 0
    if local_rank >= visible:
        raise UserError(f"process {local_rank} of this machine has no GPU, as {visible} are visible; start as many as there are")
    return local_rank


def settle() -> None:
    """Take this process's part of the cores that it shares with others of its machine.

    Where SLURM gave all tasks of a node the same cores, each is bound to its own part, and its loader workers with it;
    EVA02_CPU_BIND=none leaves them be. Where SLURM bound the tasks itself, nothing is left to do.
    """
    mine = cores.allowed()
    everyone = comm.all_gather((socket.gethostname(), mine))
    sharing = [rank for rank, one in enumerate(everyone) if one == (socket.gethostname(), mine)]
    place = find_place()
    binds = os.environ.get("EVA02_CPU_BIND", "share") == "share" and place is not None and "SLURM_STEP_ID" in os.environ
    if binds and 1 < len(sharing) <= len(mine):
        cores.bind(cores.share_of(cores.by_nearness(mine), sharing.index(comm.get_rank()), len(sharing)))
        sharing = [comm.get_rank()]
    cores.share_cores(len(sharing))


def _meets_by_itself(options: argparse.Namespace) -> bool:
    """Whether the command line says where several machines meet, one task of each starting its processes."""
    return not under_torchrun() and getattr(options, "num_machines", 1) > 1


def _check_alone(place: Place, options: argparse.Namespace) -> None:
    count = getattr(options, "num_gpus", 1)
    if place.source != "torchrun" and count > 1:
        raise UserError(
            f"{place.source} started {place.world} processes and --num-gpus {count} asks each of them for {count} more; "
            "leave --num-gpus out, or start one task"
        )


def _check(options: argparse.Namespace) -> None:
    available = torch.cuda.device_count()
    if available and options.num_gpus > available:
        raise UserError(f"--num-gpus {options.num_gpus}, but this machine has {available}; ask for at most {available}")
    if options.num_gpus < 1:
        raise UserError(f"--num-gpus {options.num_gpus} starts no process; pass 1 or more (processes, where there is no GPU)")
    if not 0 <= options.machine_rank < options.num_machines:
        raise UserError(f"--machine-rank {options.machine_rank} is not below --num-machines {options.num_machines}")
    if options.num_machines > 1 and options.dist_url == "auto":
        raise UserError("--num-machines needs the address of the first one: pass --dist-url tcp://HOST:PORT, the same on each")


def _guarded(main: Callable[..., Any], options: argparse.Namespace) -> None:
    """What each worker runs: bad input ends all of them with status 2.

    It is said once, by the first process; what no other knows of, by the process that does.
    """
    try:
        with watchdog.watching():
            settle()
            main(options)
    except UserError as error:
        if comm.is_main_process() or isinstance(error, LoneError):
            sys.stderr.write(f"error: {error}\n")
            sys.stderr.flush()
        sys.exit(2)


@contextmanager
def _signals_passed_on() -> Iterator[None]:
    """While this process waits for those it started, notices to stop are theirs: they save, and end it by ending."""

    def pass_on(number: int, _: FrameType | None) -> None:
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
