"""Questions to SLURM before a job is submitted: whether the partition can give it, whether it is in the queue already."""

import re
import subprocess
from collections.abc import Iterable

from eva02_det.launch.request import Request, minutes
from eva02_det.utils.errors import UserError

# of a row of sinfo: partition (* where it is the default), time limit, nodes, CPUs and MiB of a node, GPUs, features
_FIELDS = "%P|%l|%D|%c|%m|%G|%f"
_NAMES = ("partition", "limit", "nodes", "cpus", "memory", "gres", "features")


def check_cluster(request: Request) -> list[str]:
    """UserError for what no node of the partition can give. What could not be asked is returned, a sentence each."""
    try:
        done = subprocess.run(["sinfo", "-h", "-o", _FIELDS], capture_output=True, text=True, check=True, timeout=60)
    except FileNotFoundError:
        return ["SLURM is not installed here: whether the cluster can give this was not asked"]
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return ["sinfo does not answer: whether the cluster can give this was not asked"]
    rows = [dict(zip(_NAMES, line.split("|"), strict=True)) for line in done.stdout.splitlines() if line.count("|") == 6]
    names = {row["partition"].rstrip("*"): row["partition"].endswith("*") for row in rows}
    if request.partition is not None and not set(request.partition.split(",")) <= set(names):
        raise UserError(f"--partition {request.partition}: the cluster has {', '.join(sorted(names))}")
    wanted = set((request.partition or ",".join(name for name, default in names.items() if default)).split(","))
    nodes = [row for row in rows if row["partition"].rstrip("*") in wanted]
    _check_nodes(request, nodes)
    return []


def _check_nodes(request: Request, rows: list[dict[str, str]]) -> None:
    """UserError for the first thing asked for that none of these rows of sinfo has."""
    if not rows:
        return
    where = f"partition {', '.join(sorted({row['partition'].rstrip('*') for row in rows}))}"

    def need(option: str, asked: float, found: list[float]) -> None:
        if asked > max(found):
            raise UserError(f"{option} {asked:g}: {where} has at most {max(found):g}; ask for less, or for another partition")

    unlimited = float("inf")
    need("--time (minutes)", request.time_min, [unlimited if r["limit"] == "infinite" else minutes(r["limit"]) for r in rows])
    need("--cpus-per-task x tasks", (request.cpus_per_task or 1) * request.tasks, [_number(r["cpus"]) for r in rows])
    need("--memory (GiB)", request.memory_gib or 0, [_number(r["memory"]) / 1024 for r in rows])
    need("--gpus-per-node", request.gpus_per_node, [_gpus(r["gres"]) for r in rows])
    need("--nodes", request.nodes, [sum(_number(row["nodes"]) for row in rows)])
    features = {one for row in rows for one in row["features"].split(",")}
    if request.constraint and re.fullmatch(r"[\w.-]+", request.constraint) and request.constraint not in features:
        raise UserError(f"--constraint {request.constraint}: the nodes of {where} have {', '.join(sorted(features))}")


def _number(text: str) -> float:
    """sinfo's "64+" is at least 64."""
    return float(text.rstrip("+"))


def _gpus(gres: str) -> float:
    """GPUs in sinfo's "gpu:a100:8(S:0-1),disk:2"."""
    return float(sum(int(count) for count in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", gres)))


def in_queue(jobs: Iterable[str]) -> list[str]:
    """Those of these job ids that wait or run; none where SLURM cannot be asked."""
    ids = ",".join(jobs)
    if not ids:
        return []
    try:
        done = subprocess.run(["squeue", "-h", "-o", "%A", "-j", ids], capture_output=True, text=True, check=False, timeout=60)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return sorted(set(done.stdout.split()))
