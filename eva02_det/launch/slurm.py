"""Jobs on SLURM, by submitit: the batch script, its submission, and the same on this machine alone."""

import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eva02_det.launch.job import Job
from eva02_det.launch.request import Request
from eva02_det.utils.errors import UserError

if TYPE_CHECKING:
    import submitit

# one task that ends badly ends them all at once, and none outlives the first by more than this
_SRUN = ("--kill-on-bad-exit=1", "--wait=60", "--cpu-bind=none")


def batch_script(request: Request, jobs: Sequence[Job], folder: Path) -> str:
    """The script that `submit` would hand to sbatch. SLURM need not be installed."""
    executor = _executor(request, jobs, folder)
    return str(executor.text(len(jobs)))


def submit(request: Request, jobs: Sequence[Job], folder: Path) -> list["submitit.Job[Any]"]:
    """Submit one job, or several as an array; logs and scripts go to `folder`. UserError with sbatch's own words."""
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError("sbatch and srun are not here; submit on a login node of the cluster, or pass --local or --dry-run")
    folder.mkdir(parents=True, exist_ok=True)
    executor = _executor(request, jobs, folder)
    from submitit.core.utils import FailedJobError

    try:
        return [executor.submit(jobs[0])] if len(jobs) == 1 else executor.submit_array(list(jobs))
    except FailedJobError as error:
        raise UserError(f"sbatch refused the job: {str(error).strip()}") from error


def run_here(request: Request, jobs: Sequence[Job], folder: Path) -> list["submitit.Job[Any]"]:
    """Run the jobs on this machine by submitit's local executor, one after the other; they have ended when this returns."""
    _require_submitit()
    import submitit

    if request.nodes > 1:
        raise UserError(f"--local runs on this machine alone; --nodes {request.nodes} needs SLURM")
    folder.mkdir(parents=True, exist_ok=True)
    executor = submitit.LocalExecutor(folder, max_num_timeout=request.max_requeues)
    executor.update_parameters(
        tasks_per_node=request.tasks,
        gpus_per_node=request.gpus_per_node,
        timeout_min=request.time_min,
        signal_delay_s=request.signal_before_s,
        stderr_to_stdout=True,
    )
    os.environ.update(environment_of(jobs[0]))
    os.chdir(folder)  # see `environment_of`
    done = []
    for job in jobs:
        done.append(executor.submit(job))
        done[-1].wait()
    return done


def ended_well(job: "submitit.Job[Any]") -> bool:
    """Whether every task of a job that has ended came to its end."""
    from submitit.core.utils import UncompletedJobError

    try:
        job.results()
    except UncompletedJobError:
        return False
    return True


def environment_of(job: Job) -> dict[str, str]:
    """Variables that make Python take the code of the snapshot, not that of the checkout, in tasks and in what they start.

    `python -m` looks into the current folder first, so that tasks begin elsewhere; PYTHONSAFEPATH (3.11) ends that.
    """
    checkout = Path(__file__).resolve().parents[2]
    inherited = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
    others = [one for one in inherited if not Path(one).resolve().is_relative_to(checkout)]
    return {"PYTHONPATH": os.pathsep.join([job.code, *others]), "PYTHONSAFEPATH": "1"}


def _executor(request: Request, jobs: Sequence[Job], folder: Path) -> Any:
    _require_submitit()
    from eva02_det.launch.batch import BatchExecutor

    executor = BatchExecutor(folder, max_num_timeout=request.max_requeues)
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment_of(jobs[0]).items()]
    executor.update_parameters(
        job_name=request.name,
        partition=request.partition,
        account=request.account,
        qos=request.qos,
        constraint=request.constraint,
        time=request.time_min,
        nodes=request.nodes,
        ntasks_per_node=request.tasks,
        cpus_per_task=request.cpus_per_task,
        gpus_per_node=request.gpus_per_node or None,
        mem=None if request.memory_gib is None else f"{int(request.memory_gib * 1024)}M",
        signal_delay_s=request.signal_before_s,
        wckey=None,
        setup=[*exports, *request.setup, f"cd {shlex.quote(str(folder))}"],
        stderr_to_stdout=True,
        srun_args=list(_SRUN),
        additional_parameters={"requeue": True},
    )
    return executor


def _require_submitit() -> None:
    try:
        import submitit  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("jobs are submitted by submitit, which is not installed; pip install 'eva02-det[launch]'") from error
