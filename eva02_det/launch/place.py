"""Where this process stands in its run: rank, address and port from torchrun, SLURM or submitit's local executor, or none."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from eva02_det.utils.errors import UserError

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# set for the tasks of `srun` alone: a batch script and the shell of `salloc` have SLURM_PROCID, but are no ranks
_SLURM_STEP = ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
# below the ports that Linux gives to outgoing connections, from 32768
_FIRST_PORT, _PORTS = 12_000, 20_000
_RESTARTS = 16  # ports of one job, in turn: a requeued job need not wait for the one it has left


@dataclass(frozen=True)
class Place:
    """Of `world` processes the one of number `rank`; on its machine, of `local_world` the one of number `local_rank`.

    All meet at `address`:`port`, which rank 0 opens. `source` says who started them: torchrun, SLURM or submitit.
    """

    source: str
    rank: int
    world: int
    local_rank: int
    local_world: int
    address: str
    port: int

    def variables(self) -> dict[str, str]:
        """The same, as torchrun tells it; libraries look for these."""
        values = (self.rank, self.world, self.local_rank, self.local_world, self.address, self.port)
        return dict(zip(_TORCHRUN, map(str, values), strict=True))


def find_place(variables: Mapping[str, str] = os.environ) -> Place | None:
    """The place that whoever started this process gave it; None where it was started alone.

    torchrun goes before SLURM, as `srun torchrun ...` has both. UserError for tasks that are not the same number on each node.
    """
    if under_torchrun(variables):
        rank, world, local_rank, local_world, _, port = (variables[name] for name in _TORCHRUN)
        numbers = int(rank), int(world), int(local_rank), int(local_world)
        return Place("torchrun", *numbers, variables["MASTER_ADDR"], int(port))
    if variables.get("SUBMITIT_EXECUTOR") == "local":
        return _of_submitit(variables)
    if all(name in variables for name in _SLURM_STEP):
        return _of_slurm(variables)
    return None


def under_torchrun(variables: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun (or anything that speaks its variables) started this process."""
    return all(name in variables for name in _TORCHRUN)


def first_host(nodes: str) -> str:
    """The first host of a SLURM node list: "gpu[03-07,11],big1" -> "gpu03"."""
    first = re.split(r",(?![^\[]*\])", nodes, maxsplit=1)[0]
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)


def port_of(job: int, restart: int = 0) -> int:
    """Where the ranks of a job meet: one number for all of them, another for each job and for each time it is started."""
    return _FIRST_PORT + (job * _RESTARTS + restart % _RESTARTS) % _PORTS


def _of_slurm(variables: Mapping[str, str]) -> Place | None:
    """Of a task of `srun`; None for one that is alone, as it may start processes itself."""
    world, rank, local_rank = (int(variables[f"SLURM_{name}"]) for name in ("STEP_NUM_TASKS", "PROCID", "LOCALID"))
    if world == 1:
        return None
    counts = _tasks_per_node(variables["SLURM_STEP_TASKS_PER_NODE"])
    if len(set(counts)) > 1:
        raise UserError(f"srun started {counts} tasks on its nodes; every node needs as many: pass --ntasks-per-node")
    node = int(variables.get("SLURM_NODEID", 0))
    if rank != node * counts[0] + local_rank:
        raise UserError(
            f"task {rank} of srun is number {local_rank} on node {node} of {counts[0]} tasks each; ranks of one node must "
            "follow each other: pass srun --distribution=block"
        )
    address = variables.get("MASTER_ADDR") or first_host(variables["SLURM_STEP_NODELIST"])
    job, restart = int(variables["SLURM_JOB_ID"]), int(variables.get("SLURM_RESTART_COUNT", 0))
    port = int(variables.get("MASTER_PORT") or port_of(job, restart + int(variables.get("SLURM_STEP_ID", 0))))
    return Place("SLURM", rank, world, local_rank, counts[0], address, port)


def _of_submitit(variables: Mapping[str, str]) -> Place | None:
    """Of a task of submitit's local executor, which runs on this machine."""
    world, rank = int(variables["SUBMITIT_LOCAL_NTASKS"]), int(variables["SUBMITIT_LOCAL_GLOBALID"])
    if world == 1:
        return None
    return Place("submitit", rank, world, rank, world, "127.0.0.1", port_of(int(variables["SUBMITIT_LOCAL_JOB_ID"])))


def _tasks_per_node(text: str) -> list[int]:
    """SLURM's "2(x3),1" -> [2, 2, 2, 1]."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    return counts
