"""Runs a function in two gloo processes and hands back what each returned."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp

RANKS = 2


def _one_rank(rank: int, function: Callable[..., Any], folder: str, arguments: tuple) -> None:
    import eva02_det  # noqa: F401  activates the provider

    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    try:
        (Path(folder) / f"rank{rank}").write_bytes(pickle.dumps(function(*arguments)))
        dist.barrier()
    finally:
        dist.destroy_process_group()


def on_two_ranks(function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """`function(*arguments)` of rank 0 and of rank 1. The function is importable, what it takes and returns pickles."""
    mp.spawn(_one_rank, args=(function, str(folder), arguments), nprocs=RANKS)
    return [pickle.loads((folder / f"rank{rank}").read_bytes()) for rank in range(RANKS)]
