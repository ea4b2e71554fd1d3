"""What a job asks of a cluster, in the units in which people write it."""

import re
from dataclasses import dataclass

from eva02_det.utils.errors import UserError


@dataclass(frozen=True)
class Request:
    """What a job asks of the cluster. None leaves it to the cluster's own default."""

    nodes: int = 1
    gpus_per_node: int = 0
    tasks_per_node: int | None = None
    cpus_per_task: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time_min: int = 60
    memory_gib: float | None = None
    constraint: str | None = None
    max_requeues: int = 100
    signal_before_s: int = 120
    setup: tuple[str, ...] = ()
    name: str = "eva02"

    @property
    def tasks(self) -> int:
        """Processes on each node: one for each GPU."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def world(self) -> int:
        """Processes of the job."""
        return self.nodes * self.tasks

    def check(self) -> None:
        """UserError for what no cluster could give, or what would not work if it did."""
        if min(self.nodes, self.tasks, self.time_min, self.cpus_per_task or 1) < 1 or self.gpus_per_node < 0:
            raise UserError(
                "--nodes, --tasks-per-node, --cpus-per-task and --time must be at least 1, --gpus-per-node at least 0"
            )
        if self.gpus_per_node and self.tasks != self.gpus_per_node:
            raise UserError(
                f"--tasks-per-node {self.tasks} with --gpus-per-node {self.gpus_per_node}: each process uses one GPU; "
                "leave --tasks-per-node out"
            )
        if not 0 < self.signal_before_s < 60 * self.time_min:
            raise UserError(
                f"--signal-before {self.signal_before_s} s must lie within --time {self.time_min} min; it is the time that the "
                "run has to finish a step and save"
            )
        if self.max_requeues < 0:
            raise UserError(f"--max-requeues {self.max_requeues} must be at least 0")


def minutes(text: str) -> int:
    """SLURM's forms of a time, and "36h" or "90m" -> minutes, rounded up: "2-12:00:00", "12:00:00", "30:00", "90"."""
    short = re.fullmatch(r"(\d+)([hmd])", text)
    if short:
        return int(short[1]) * {"m": 1, "h": 60, "d": 24 * 60}[short[2]]
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        raise UserError(f"--time {text} is no time; write minutes, HH:MM:SS, D-HH:MM:SS, 36h or 90m")
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:  # hours, hours:minutes, ...
        hours, mins, seconds = [*parts, 0, 0][:3]
    else:  # minutes, minutes:seconds, hours:minutes:seconds
        hours, mins, seconds = parts if len(parts) == 3 else (0, *parts, 0)[:3]
    return (int(days or 0) * 24 + hours) * 60 + mins + (seconds + 59) // 60


def gibibytes(text: str) -> float:
    """ "64G", "64GB", "1.5T", "900M" or a number of GiB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT]?)(?:i?B)?", text, re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise UserError(f"--memory {text} is no amount; write for example 480G")
    return float(found[1]) * {"M": 1 / 1024, "": 1, "G": 1, "T": 1024}[found[2].upper()]
