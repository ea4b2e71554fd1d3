"""Which cores a process and its loader workers use: its part of those that SLURM or the machine allows, never others."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

_TOPOLOGY = Path("/sys/devices/system/cpu")


def allowed() -> list[int]:
    """Numbers of the cores this process may use. They need not follow each other, nor begin at 0."""
    return sorted(os.sched_getaffinity(0))


def share_of(cores: Sequence[int], number: int, of: int) -> list[int]:
    """Part `number` of `of` parts of these cores, as equal as can be; parts keep the order given."""
    return list(cores[number * len(cores) // of : (number + 1) * len(cores) // of])


def by_nearness(cores: Sequence[int]) -> list[int]:
    """Cores in an order in which neighbours share a socket, and then a core of two threads."""

    def place(core: int) -> tuple[int, int, int]:
        return (_topology(core, "physical_package_id"), _topology(core, "core_id"), core)

    return sorted(cores, key=place)


def bind(cores: Sequence[int]) -> None:
    """Keep all threads of this process, and what it starts from here on, to these cores."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores)


def share_cores(processes: int) -> None:
    """Without a GPU, compute with this process's part of the cores, which `processes` share; more threads only wait."""
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(allowed()) // processes))


def _topology(core: int, name: str) -> int:
    file = _TOPOLOGY / f"cpu{core}" / "topology" / name
    return int(file.read_text()) if file.is_file() else 0
