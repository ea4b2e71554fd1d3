"""Ranks of a run under the watchdog, each in a state that a test asks for: `watched.py WHAT`, with torchrun's variables."""

import argparse
import ctypes
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from eva02_det.launch import watchdog
from eva02_det.utils.errors import UserError

RANK = int(os.environ.get("RANK", "0"))


def tell(text: str) -> None:
    Path(os.environ["NOTES"], f"{text}_{RANK}").touch()


def exchange(pause_s: float = 0.05) -> None:
    """Steps with a collective each, until something stops them."""
    until = time.monotonic() + float(os.environ.get("STEPS_S", "60"))
    first = True
    while True:
        go_on = torch.tensor(float(time.monotonic() < until))
        dist.all_reduce(go_on, op=dist.ReduceOp.MIN)
        watchdog.step()
        if first:
            tell("steps")
            first = False
        if not go_on:
            return
        time.sleep(pause_s)


def apart() -> None:
    """The others sleep, rank 0 too, as in an evaluation without collectives."""
    watchdog.step()
    tell("steps")
    time.sleep(60)


def error_in_one() -> None:
    watchdog.step()
    tell("steps")
    if RANK == 1:
        raise ValueError("the shelf is empty")
    dist.all_reduce(torch.zeros(1))


def same_error() -> None:
    time.sleep(0.2 * RANK)
    raise UserError("the config is wrong; correct it")


def busy() -> None:
    """One rank holds its interpreter before its first step, then works long; the others wait for it."""
    if RANK == 1:
        ctypes.PyDLL(None).sleep(3)  # keeps the interpreter's lock
    dist.barrier()
    watchdog.step()
    if RANK == 1:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            sum(range(1000))
    dist.barrier()
    if RANK == 1:
        watchdog.stop()  # says goodbye long before the others
        os._exit(0)
    time.sleep(1)


def stalled() -> None:
    watchdog.step()
    if RANK == 1:
        time.sleep(3)
    dist.barrier()


def lost(_: argparse.Namespace) -> None:
    """One of the processes that `start` started is killed."""
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def spawn() -> None:
    from eva02_det.launch.process_group import start  # slow to import

    start(lost, argparse.Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto"))


def main() -> None:
    if sys.argv[1] == "spawn":
        spawn()
        return
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    try:
        with watchdog.watching():
            globals()[sys.argv[1]]()
    except UserError:
        sys.exit(2)


if __name__ == "__main__":
    main()
