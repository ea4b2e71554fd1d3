"""Trainings of a detector and of a student that are begun again and again in forked processes, to be killed there.

A server that has imported everything forks each life, so that 30 of them cost the time of training and not of starting.
"""

import logging
import multiprocessing
import os
import random
import re
import signal
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from eva02_det.checkpoint.checkpointer import DetectorCheckpointer  # noqa: F401  imported before the fork
from eva02_det.engine.train import train as train_detector
from eva02_det.utils.errors import run_tool
from eva02_mim.train import train as train_student
from tests.engine.small_run import forget, small_config
from tests.mim.nano_run import nano_config

STEPS, PERIOD = 36, 3
LOG = "drill.log"
BEGAN = re.compile(r"(?:from iteration|resumed after step) (\d+)")


@dataclass(frozen=True)
class Subject:
    """What is trained: where its losses and checkpoints are; offset: steps that a checkpoint stands for, less its number."""

    name: str
    trace: str
    files: str
    offset: int

    def reported(self, run: Path) -> int:
        """Steps whose losses were written."""
        file = run / self.trace
        return file.read_text().count("\n") if file.is_file() else 0

    def complete(self, run: Path) -> int:
        """Steps of the newest checkpoint that torch can read whole; 0 for none. Independent of the store."""
        done = [0]
        for file in run.glob(self.files):
            torch.load(file, weights_only=True)  # in place means whole
            number = re.search(r"(\d+)", file.name)
            done.append(int(number[1]) + self.offset if number else STEPS)
        return max(done)

    def is_writing(self, run: Path) -> bool:
        """Whether an unfinished checkpoint lies in the folder."""
        return any(name.endswith(".part") and name.startswith(f".{self.files.partition('*')[0]}") for name in os.listdir(run))


DETECTOR = Subject("detector", "losses.jsonl", "model_*.pth", 1)
STUDENT = Subject("student", "metrics.jsonl", "checkpoint_*.pt", 0)
SUBJECTS = {one.name: one for one in (DETECTOR, STUDENT)}


def live(name: str, data: str, run: str, resume: bool, asynchronous: bool, keep: int | None = 2) -> None:
    """One life of a training: what a process runs until it is killed or the training is over. Its words go to LOG."""
    torch.set_num_threads(1)
    home = Path(run)
    home.mkdir(parents=True, exist_ok=True)
    said = os.open(home / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)
    settings = {"period": PERIOD, "asynchronous": asynchronous}
    if name == DETECTOR.name:
        os.environ["DETECTRON2_DATASETS"] = data
        forget("small_train", "small_val")
        config = small_config(home, STEPS, train={"ema_decay": 0.5})
        config.model.backbone.net.drop_path_rate, config.dataloader.evaluator = 0.2, None
        config.train.checkpointer.update({**settings, "max_to_keep": keep})
        run_tool(partial(train_detector, config, resume=resume))
        return
    os.environ["EVA02_MIM_CACHE"] = str(Path(data) / "cache")
    changes: dict[str, Any] = {f"train__checkpoints__{key}": value for key, value in {**settings, "keep": keep}.items()}
    changes |= {"train__max_steps": STEPS, "train__batch": 12, "train__log_period": 1, "student__drop_path_rate": 0.3}
    config = nano_config(Path(data) / "images", home, schedule__warmup_epochs=1, **changes)
    run_tool(partial(train_student, config, resume=resume))


def forked(*arguments: Any) -> Any:
    """A process that runs `live(*arguments)`, begun."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=live, args=arguments)
    process.start()
    return process


@dataclass
class Drill:
    """Kills trainings of a subject at random moments until `moments` kills have happened, each run being let end at last.

    Every third kill waits for a checkpoint that is being written; half of the runs write theirs beside the training.
    """

    subject: Subject
    data: Path
    home: Path
    moments: int
    kills: int = 0
    in_writing: int = 0
    starts: list[tuple[int, int]] = field(default_factory=list)  # steps of the newest whole checkpoint, steps gone on from
    runs: list[Path] = field(default_factory=list)

    def go(self) -> None:
        while self.kills < self.moments:
            self.runs.append(self.home / f"run{len(self.runs)}")
            self._one_run(self.runs[-1], asynchronous=len(self.runs) % 2 == 1)

    def _one_run(self, run: Path, *, asynchronous: bool) -> None:
        for life in range(1000):
            held = self.subject.complete(run)
            spoken = (run / LOG).stat().st_size if (run / LOG).is_file() else 0
            process = forked(self.subject.name, str(self.data), str(run), life > 0, asynchronous)
            killed = self.kills < self.moments and self._kill(process, run)
            process.join()
            said = (run / LOG).read_text()[spoken:] if (run / LOG).is_file() else ""
            if began := BEGAN.search(said):
                self.starts.append((held, int(began[1])))
            if not killed:
                assert process.exitcode == 0, said[-3000:]
                return
            assert process.exitcode == -signal.SIGKILL, said[-3000:]
        raise AssertionError("the run does not come to its end")

    def _kill(self, process: Any, run: Path) -> bool:
        """SIGKILL after a random number of steps and a moment more, or inside the next write; False where the run was over."""
        aims_at_write = self.kills % 3 == 2
        goal = self.subject.reported(run) + random.randrange(12)
        while self.subject.reported(run) < goal or (aims_at_write and not (run.is_dir() and self.subject.is_writing(run))):
            if process.exitcode is not None:
                return False
            time.sleep(0.0003 if aims_at_write else 0.002)
        time.sleep(random.uniform(0, 0.002 if aims_at_write else 0.05))
        if process.exitcode is not None:
            return False
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if process.exitcode != -signal.SIGKILL:
            return False
        self.kills += 1
        self.in_writing += run.is_dir() and self.subject.is_writing(run)
        return True
