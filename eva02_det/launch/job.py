"""What a job does in each of its tasks: an entry point with its arguments, in this process, until it ends or is told to stop."""

import os
import runpy
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from eva02_det.launch import preemption

if TYPE_CHECKING:  # an extra; those who run jobs have it
    from submitit.core.utils import DelayedSubmission

WAIT_S = 120.0  # for the first task to have the job queued again


@dataclass(frozen=True)
class Entry:
    """An entry point. resumes: it takes --resume; plans: it takes --dry-run; has_folder: it writes to train.output_dir.

    out: the option that names its folder instead. sharded: an array does its work in parts, --shard I/N; --merge ends it.
    """

    tool: str
    options: tuple[str, ...] = ()
    resumes: bool = False
    plans: bool = True
    has_folder: bool = True
    out: str = ""
    sharded: bool = False


ENTRIES = {
    "train": Entry("lazyconfig_train_net.py", resumes=True),
    "eval": Entry("lazyconfig_train_net.py", ("--eval-only",)),
    "pretrain": Entry("pretrain.py", resumes=True),
    "finetune": Entry("finetune_classifier.py", resumes=True),
    "find_duplicates": Entry("find_duplicates.py", plans=False, has_folder=False, out="--out", sharded=True),
}


@dataclass(frozen=True)
class Job:
    """An entry point with the arguments of its tool. code: the snapshot it runs from; home: the folder it was submitted in.

    A job that starts again does the same as before: what it goes on from lies in the run folder, nothing travels with it.
    """

    entry: str
    arguments: tuple[str, ...]
    code: str
    home: str

    def argv(self) -> list[str]:
        """The command line of the tool: options first, overrides last. An entry that trains always goes on where it was."""
        entry = ENTRIES[self.entry]
        resume = ["--resume"] if entry.resumes and "--resume" not in self.arguments else []
        return [str(Path(self.code, "tools", entry.tool)), *entry.options, *resume, *self.arguments]

    def __call__(self) -> None:
        """Run the tool as if it had been called. Ends with its status; when told to stop by USR2, the job is queued again.

        What has ended well stays so: a signal between here and the end of the process would make a failure of it.
        """
        os.chdir(self.home)
        sys.argv = self.argv()
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except preemption.Stopped as stopped:
            if stopped.signal == "USR2":
                queue_again(stopped)
            raise
        except SystemExit as ended:
            if ended.code:
                raise
        preemption.ignore()

    def checkpoint(self) -> "DelayedSubmission":
        """What submitit runs when the job starts again: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def queue_again(stopped: preemption.Stopped) -> NoReturn:
    """Hand over to submitit: its handler of USR2, in the first task, has the job queued again and ends the process.

    The other tasks of a SLURM job wait for that, as srun would end the first one with them; then SLURM ends them.
    """
    from submitit import JobEnvironment

    environment = JobEnvironment()
    handler = preemption.previous(signal.SIGUSR2)
    if environment.global_rank == 0 and callable(handler):
        handler(signal.SIGUSR2, None)
    elif environment.cluster == "slurm":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(WAIT_S)
    raise stopped
