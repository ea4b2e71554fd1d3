"""From the command line of tools/submit.py to jobs: which runs, in which folders, from which code, on what."""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from eva02_det.launch import cluster, snapshot
from eva02_det.launch.job import ENTRIES, Job
from eva02_det.launch.request import Request, gibibytes, minutes
from eva02_det.launch.slurm import batch_script
from eva02_det.utils.errors import UserError

FOLDER = "train.output_dir="
LOGS, CODE = "launch", "code"  # in the run folder
_TRACES = ("last_checkpoint", "*.pth", "checkpoint_*.pt")  # of a run that has saved


def parser() -> argparse.ArgumentParser:
    """The options of a submission; those of the entry point and its overrides follow after `--`."""
    made = argparse.ArgumentParser(
        description="Submit a run to SLURM: it survives preemption and time limits, and ends as if it had never been stopped.",
        epilog="submit.py train --gpus-per-node 8 --time 24h -- --config-file FILE train.output_dir=DIR a.b.c=value",
    )
    add = made.add_argument
    add("entry", choices=ENTRIES, metavar="ENTRY", help=", ".join(ENTRIES))
    add("--nodes", type=int, default=1, help="default 1")
    add("--gpus-per-node", type=int, default=0, help="default 0: on the CPU")
    add("--tasks-per-node", type=int, help="processes; by default one for each GPU")
    add("--cpus-per-task", type=int, help="for the process and its loader workers")
    add("--partition")
    add("--account")
    add("--qos")
    add(
        "--time",
        default="60",
        help="after which the job is queued again: minutes, HH:MM:SS, D-HH:MM:SS or 36h (default 1 h)",
    )
    add("--memory", help="of each node, such as 480G")
    add("--constraint", help="features that the nodes must have")
    add(
        "--array",
        nargs="+",
        metavar="OVERRIDES",
        help='one run for each, such as "optimizer.lr=1e-4 train.seed=1"; or a file of lines; of find_duplicates: how many parts',
    )
    add("--max-requeues", type=int, default=100, help="after so many time limits it is not queued again (default 100)")
    add(
        "--signal-before",
        type=int,
        default=120,
        metavar="S",
        help="seconds before the limit, for saving (default 120)",
    )
    add("--setup", action="append", default=[], metavar="LINE", help="of the batch script, before the run; may be repeated")
    where = made.add_mutually_exclusive_group()
    where.add_argument("--dry-run", action="store_true", help="print the batch script and what each rank will see, and end")
    where.add_argument("--local", action="store_true", help="run on this machine, by submitit's local executor, and wait")
    return made


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(options of the submission, arguments of the entry point), parted by the first `--`."""
    if "--" not in arguments:
        return list(arguments), []
    at = list(arguments).index("--")
    return list(arguments[:at]), list(arguments[at + 1 :])


@dataclass(frozen=True)
class Plan:
    """Jobs and what they are made of. folder: of the run; of an array that of all its runs."""

    request: Request
    jobs: tuple[Job, ...]
    folder: Path
    code: snapshot.Snapshot

    @property
    def logs(self) -> Path:
        """Where submitit and SLURM write."""
        return self.folder / LOGS

    def script(self) -> str:
        """Of SLURM."""
        return batch_script(self.request, self.jobs, self.logs)

    def ranks(self) -> str:
        """What each process will see, a line each."""
        request = self.request
        cores = f"{request.cpus_per_task} cores" if request.cpus_per_task else "the cores that SLURM gives a task by default"
        shared = "" if request.tasks == 1 else f", its part of {request.tasks} in those of the node"
        lines = [f"address: first host of the allocation; port: of the job id; each process: {cores}{shared}"]
        for rank in range(request.world):
            node, local = divmod(rank, request.tasks)
            device = f"GPU {local}" if request.gpus_per_node else "CPU"
            variables = f"RANK={rank} WORLD_SIZE={request.world} LOCAL_RANK={local} LOCAL_WORLD_SIZE={request.tasks}"
            lines.append(f"rank {rank}: node {node}, process {local} of {request.tasks}, {device}; {variables}")
        return "\n".join(lines)

    def commands(self) -> str:
        """What each run calls, a line each."""
        return "\n".join(shlex.join(job.argv()) for job in self.jobs)

    def afterwards(self) -> str:
        """The command that puts the parts of an array together; "" where nothing is in parts."""
        first = self.jobs[0]
        if "--shard" not in first.arguments[-2:] or not ENTRIES[first.entry].sharded:
            return ""
        tool = self.code.checkout / "tools" / ENTRIES[first.entry].tool
        return shlex.join([sys.executable, str(tool), *first.arguments[:-2], "--merge"])


def make_plan(options: argparse.Namespace, arguments: Sequence[str], checkout: Path) -> Plan:
    """The jobs that a command line asks for; takes the snapshot they run from, unless it is a dry run.

    UserError for a request that cannot be met, an entry point that is not there, and a folder that another run has.
    """
    request = request_of(options)
    request.check()
    if ENTRIES[options.entry].sharded and request.world > 1:
        raise UserError(
            f"{options.entry} is one process, which starts others on its node; give --array N in place of --nodes and "
            "--tasks-per-node, and at most --gpus-per-node 1"
        )
    if not options.local:
        for sentence in cluster.check_cluster(request):
            sys.stderr.write(f"note: {sentence}\n")
    folder = _folder(options.entry, arguments)
    runs = list(_runs(options, [*arguments], folder))
    for _, place in runs:
        _check_free(options.entry, place, arguments)
    code = snapshot.take(checkout, folder / CODE, write=not options.dry_run)
    tool = f"tools/{ENTRIES[options.entry].tool}"
    if tool not in code.names:
        raise UserError(f"{options.entry} needs {tool}, which this version does not have; submit another entry point")
    jobs = tuple(
        Job(options.entry, tuple(code.path_of(text) for text in run), str(code.root), str(Path.cwd())) for run, _ in runs
    )
    return Plan(request, jobs, folder, code)


def check_run(plan: Plan) -> str:
    """Let the entry point say what its first run would do; UserError with its own sentence where the run could not start."""
    job = plan.jobs[0]
    entry = ENTRIES[job.entry]
    if not entry.plans:
        return ""
    root = plan.code.root if plan.code.root.is_dir() else plan.code.checkout
    tool = root / "tools" / entry.tool
    processes = ["--dry-run", "--num-gpus", str(plan.request.tasks), "--num-machines", str(plan.request.nodes)]
    arguments = [text.replace(str(plan.code.root), str(root)) for text in job.argv()[1:]]
    done = subprocess.run([sys.executable, str(tool), *processes, *arguments], capture_output=True, text=True, check=False)
    if done.returncode == 2:
        raise UserError(done.stderr.strip().splitlines()[-1].removeprefix("error: ") if done.stderr.strip() else "it cannot run")
    if done.returncode:
        raise RuntimeError(f"{tool.name} --dry-run ended with status {done.returncode}:\n{done.stderr}")
    return done.stdout.rstrip()


def request_of(options: argparse.Namespace) -> Request:
    """What the options ask of the cluster."""
    return Request(
        nodes=options.nodes,
        gpus_per_node=options.gpus_per_node,
        tasks_per_node=options.tasks_per_node,
        cpus_per_task=options.cpus_per_task,
        partition=options.partition,
        account=options.account,
        qos=options.qos,
        time_min=minutes(options.time),
        memory_gib=None if options.memory is None else gibibytes(options.memory),
        constraint=options.constraint,
        max_requeues=options.max_requeues,
        signal_before_s=options.signal_before,
        setup=tuple(options.setup),
        name=f"eva02_{options.entry}",
    )


def _folder(entry: str, arguments: Sequence[str]) -> Path:
    """What train.output_dir or the entry's own option names; else a new one below output/, after the config and the time."""
    named = [text.removeprefix(FOLDER) for text in arguments if text.startswith(FOLDER)]
    if out := ENTRIES[entry].out:
        after = pairwise(arguments)
        named = [value for option, value in after if option == out]
        named += [text.partition("=")[2] for text in arguments if text.startswith(f"{out}=")]
    if named:
        return Path(named[-1]).absolute()
    configs = [Path(text).stem for text in arguments if text.endswith((".py", ".yaml"))]
    return Path("output", "-".join([entry, *configs[:1], datetime.now().strftime("%Y%m%d-%H%M%S")])).absolute()


def _runs(options: argparse.Namespace, arguments: list[str], folder: Path) -> list[tuple[list[str], Path]]:
    """(arguments, folder) of each run; those of an array have folders of their own below that of the array."""
    own = ENTRIES[options.entry].has_folder
    arguments = [text for text in arguments if not (own and text.startswith(FOLDER))]
    if not options.array:
        return [([*arguments, *([f"{FOLDER}{folder}"] if own else [])], folder)]
    if ENTRIES[options.entry].sharded:
        return [([*arguments, "--shard", part], folder) for part in _parts(options.array)]
    if not own:
        raise UserError(f"--array needs an entry point that has a config to override; {options.entry} has none")
    runs = []
    for number, overrides in enumerate(_array(options.array)):
        place = folder / f"{number:03d}"
        runs.append(([*arguments, *overrides, f"{FOLDER}{place}"], place))
    return runs


def _parts(values: list[str]) -> list[str]:
    """What --shard gets in each run."""
    if len(values) != 1 or not values[0].isdigit() or int(values[0]) < 1:
        raise UserError(f"--array {' '.join(values)}: of this entry point it is a number, of how many parts the work is made")
    return [f"{number}/{values[0]}" for number in range(int(values[0]))]


def _array(values: list[str]) -> list[list[str]]:
    """Overrides of each run, from texts of them or from a file with a line for each; a line that begins with # is none."""
    if len(values) == 1 and Path(values[0]).is_file():
        lines = [line.strip() for line in Path(values[0]).read_text(encoding="utf-8").splitlines()]
        values = [line for line in lines if line and not line.startswith("#")]
    runs = [shlex.split(value) for value in values]
    for overrides in runs:
        for text in overrides:
            if "=" not in text:
                raise UserError(f"--array: {text!r} is no override a.b.c=value, nor is it a file of lines of them")
            if text.startswith(FOLDER):
                raise UserError(f"--array: {text} names a folder; each run of an array has its own, below the one after --")
    if not runs:
        raise UserError("--array names no runs; give overrides, or a file with a line of them for each run")
    return runs


def _check_free(entry: str, folder: Path, arguments: Sequence[str]) -> None:
    """UserError where a job in the queue, or an earlier run that nobody asked to go on with, has this folder."""
    logs = [place / LOGS for place in (folder, folder.parent)]
    ids = {file.name.split("_")[0] for place in logs if place.is_dir() for file in place.glob("*_submission.sh")}
    waiting = cluster.in_queue(sorted(one for one in ids if one.isdigit()))
    if waiting:
        raise UserError(f"{folder} belongs to job {', '.join(waiting)}, which is in the queue; end it with scancel first")
    if not ENTRIES[entry].resumes or "--resume" in arguments or not folder.is_dir():
        return
    if any(next(folder.glob(trace), None) for trace in _TRACES):
        raise UserError(f"{folder} holds an earlier run; pass -- --resume ... to go on with it, or another {FOLDER}DIR")
