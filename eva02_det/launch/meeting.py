"""The ranks of a job meet at one address; who does not come within a stated time is named."""

import json
import os
import socket
from datetime import timedelta

import torch
import torch.distributed as dist

from eva02_det.launch.place import Place
from eva02_det.utils.errors import UserError

SECONDS = 300.0  # nodes of one job start their processes, and import from a shared disk, minutes apart


def meet(place: Place, seconds: float | None = None) -> dist.TCPStore:
    """The store at the address of the run, once all ranks have come to it.

    Waits for `seconds`; by default EVA02_MEETING_S, else 300. UserError for a rank that cannot reach the address, and in the
    others for those that did not come, by number; also where two ranks were given the same GPU.
    """
    seconds = float(os.environ.get("EVA02_MEETING_S", SECONDS)) if seconds is None else seconds
    store = _open(place, seconds)
    store.set(_key(place.rank), json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "gpu": _gpu()}))
    try:
        store.wait([_key(rank) for rank in range(place.world)], timedelta(seconds=seconds))
    except RuntimeError as error:
        missing = [rank for rank in range(place.world) if not store.check([_key(rank)])]
        raise UserError(
            f"rank {place.rank} on {socket.gethostname()} waited {seconds:.0f} s at {place.address}:{place.port} for "
            f"{len(missing)} of {place.world} ranks: {_few(missing)} did not come; see their logs, or set EVA02_MEETING_S"
        ) from error
    _check_gpus(place, store)
    return store


def _open(place: Place, seconds: float) -> dist.TCPStore:
    """The store: rank 0 opens it, the others reach it."""
    who = f"rank {place.rank} on {socket.gethostname()}"
    where = f"{place.address}:{place.port}"
    try:
        return dist.TCPStore(
            place.address,
            place.port,
            place.world,
            is_master=place.rank == 0,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
        )
    except (RuntimeError, ValueError) as error:
        if place.rank == 0:
            reason = str(error).splitlines()[0]
            raise UserError(f"{who} cannot open {where} ({reason}); set MASTER_PORT to a free port, the same for all") from error
        raise UserError(
            f"{who} did not reach rank 0 at {where} within {seconds:.0f} s; see whether rank 0 runs and whether nodes reach each "
            "other at that address (else set MASTER_ADDR), or set EVA02_MEETING_S"
        ) from error


def _check_gpus(place: Place, store: dist.TCPStore) -> None:
    """UserError where a rank of this machine has the GPU of this one: nccl would only hang or speak in riddles."""
    first = place.rank - place.local_rank
    gpus = {rank: json.loads(store.get(_key(rank)))["gpu"] for rank in range(first, first + place.local_world)}
    same = [rank for rank, gpu in gpus.items() if gpu is not None and gpu == gpus[place.rank]]
    if len(same) > 1:
        raise UserError(f"ranks {_few(same)} were given one GPU, {gpus[place.rank]}; ask for as many GPUs as tasks on each node")


def _gpu() -> str | None:
    """What is the same for two processes only if their device is."""
    if not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)


def _key(rank: int) -> str:
    return f"here/{rank}"


def _few(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks[:8])) + (" ..." if len(ranks) > 8 else "")
