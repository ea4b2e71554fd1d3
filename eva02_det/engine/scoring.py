"""Scores the predictions of an evaluation in processes of their own while training goes on; no rank waits for them."""

import json
import logging
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from eva02_det.engine.ema import ModelEma
from eva02_det.engine.evaluate import WEIGHTS, Evaluation, Pass, Results, prefixed, with_nan
from eva02_det.engine.stopping import Stop
from eva02_det.evaluation.outcome import RESULTS_FILE
from eva02_det.evaluation.shards import FOLDER as SHARDS
from eva02_det.evaluation.shards import is_complete
from eva02_det.launch import preemption
from eva02_det.launch.process_group import leave
from eva02_det.utils.processes import on_main

SCORER = "eva02_det.evaluation.score"
LOG_FILE = "score.log"
PATIENCE_S = 1.0  # between looks whether to stop
# a scorer is no rank of the run and needs no GPU
NOT_FOR_SCORERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

logger = logging.getLogger("eva02_det")


class Scoring:
    """A process that scores the predictions in a folder and writes `results.json` there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        env = {name: value for name, value in os.environ.items() if name not in NOT_FOR_SCORERS}
        env |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").unlink(missing_ok=True)
        with (folder / LOG_FILE).open("w") as log:
            command = [sys.executable, "-m", SCORER, str(folder)]
            self._process = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # notices to stop are for the run
            )

    @property
    def ended(self) -> bool:
        """Whether it is over, well or not."""
        return self._process.poll() is not None

    def results(self) -> Results:
        """Waits for the end. Metrics by task; empty, and the reason in the log, where the scorer failed."""
        status = self._wait()
        try:
            if status == 0:
                return with_nan(json.loads((self.folder / "results.json").read_text(encoding="utf-8")))
            reason = f"it ended with status {status}"
        except (OSError, ValueError) as error:
            reason = str(error)
        last = (self.folder / LOG_FILE).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        logger.error(
            "the predictions in %s could not be scored: %s; training goes on, score them again with "
            "`python -m %s %s`; its last words: %s",
            self.folder,
            reason,
            SCORER,
            self.folder,
            " | ".join(last),
        )
        return {}

    def _wait(self) -> int:
        """The status; a run that is told to stop waits no longer."""
        while True:
            try:
                return self._process.wait(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                if notice := preemption.noticed():
                    self._process.terminate()
                    preemption.stop(notice)


@dataclass
class Round:
    """One evaluation: all of its passes, scored or being scored."""

    iteration: int
    parts: list[tuple[Pass, Scoring | None]]

    @property
    def ended(self) -> bool:
        return all(scoring is None or scoring.ended for _, scoring in self.parts)

    def results(self) -> Results:
        """Waits for the end."""
        together: Results = {}
        for part, scoring in self.parts:
            together |= prefixed(part.prefix, (part.results or {}) if scoring is None else scoring.results())
        return together


class EvaluationHook(HookBase):
    """Evaluates each `period` iterations (0: never) and when training is complete.

    All ranks run the model and write their predictions; then they train on. The main process has them scored beside the
    training and, when that is ready, stores the metrics as "task/metric" with the iteration they belong to as
    "evaluated_iteration". At the end of the training the other ranks leave; the main process alone waits for what is missing.
    Predictions are kept for the last evaluation only: in `<output_dir>/inference` for that at the end, below it before.
    A resumed run has predictions scored that the stopped one left unscored, and makes the evaluation of the iteration it goes on
    from where that has none.

    stop: called where the run is told to stop during an evaluation.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        model: nn.Module,
        period: int,
        *,
        which: str = "raw",
        average: ModelEma | None = None,
        stop: Stop = preemption.stop,
    ) -> None:
        self._evaluation, self._model, self._period = evaluation, model, period
        self._which, self._average, self._stop = which, average, stop
        self._rounds: list[Round] = []
        self._scored: list[Path] = []

    def before_train(self) -> None:
        done = self.trainer.start_iter
        if done > 0 and comm.is_main_process():
            self._rounds.extend(self._left_over())
        if self._is_due(done) and not on_main(lambda: self._is_scored(done - 1)):
            logger.info("iteration %d has not been evaluated, as the run was stopped; it is now", done - 1)
            self._evaluate(self._folder(done - 1), done - 1, preemption.stop)  # there is nothing new to save

    def after_step(self) -> None:
        if self._is_due(self.trainer.iter + 1):
            self._evaluate(self._folder(self.trainer.iter), self.trainer.iter, self._stop)
        while self._rounds and self._rounds[0].ended:
            self._finish(self._rounds.pop(0))

    def after_train(self) -> None:
        if self.trainer.iter < self.trainer.max_iter:  # something stopped it
            for unfinished in self._rounds:
                logger.warning(
                    "the scoring of iteration %d goes on by itself; see %s", unfinished.iteration, self._evaluation.home
                )
            return
        self._evaluate(self._evaluation.home, self.trainer.iter, self._stop)
        leave()
        while self._rounds:
            self._finish(self._rounds.pop(0))

    def _is_due(self, done: int) -> bool:
        """Whether there is an evaluation after so many iterations; that of the last has its own place."""
        return self._period > 0 and 0 < done < self.trainer.max_iter and done % self._period == 0

    def _folder(self, iteration: int) -> Path:
        return self._evaluation.home / f"model_{iteration:07d}"  # as the checkpoint is called

    def _folders(self, iteration: int) -> dict[str, Path]:
        """Where the predictions of each pass are."""
        home, prefixes = self._folder(iteration), WEIGHTS[self._which]
        return {prefix: home / (prefix.strip("/") if len(prefixes) > 1 else "") for prefix in prefixes}

    def _is_scored(self, iteration: int) -> bool:
        """Whether an evaluation has been scored or is being; of an evaluator that scores at once nothing is known."""
        if not hasattr(self._evaluation.evaluator, "deferred") or iteration in [one.iteration for one in self._rounds]:
            return True
        return all((folder / "results.json").is_file() for folder in self._folders(iteration).values())

    def _left_over(self) -> Iterator[Round]:
        """Evaluations before the first iteration of this run whose predictions are there and have not been scored."""
        for home in sorted(self._evaluation.home.glob("model_[0-9]*")):
            iteration = int(home.name.removeprefix("model_"))
            folders = self._folders(iteration)
            if iteration < self.trainer.start_iter and not self._is_scored(iteration) and all(map(is_complete, folders.values())):
                logger.info("the predictions of iteration %d were left unscored; they are scored now", iteration)
                parts: list[tuple[Pass, Scoring | None]] = [
                    (Pass(prefix, folder, None), Scoring(folder)) for prefix, folder in folders.items()
                ]
                yield Round(iteration, parts)

    def _evaluate(self, folder: Path, iteration: int, stop: Stop) -> None:
        passes = self._evaluation.passes(self._model, folder, which=self._which, average=self._average, stop=stop)
        if comm.is_main_process():
            parts = [(part, Scoring(part.folder) if part.results is None else None) for part in passes]
            self._rounds.append(Round(iteration, parts))

    def _finish(self, finished: Round) -> None:
        """Wait for a scoring and keep its metrics; predictions of the evaluation before are given up."""
        results = finished.results()
        self._evaluation.report(results)
        for name, value in scalars(results):
            self.trainer.storage.put_scalar(name, value, smoothing_hint=False)
        if results:
            self.trainer.storage.put_scalar("evaluated_iteration", finished.iteration, smoothing_hint=False)
            self.trainer.last_evaluation = results
        for folder in self._scored:
            shutil.rmtree(folder / SHARDS, ignore_errors=True)
            (folder / RESULTS_FILE).unlink(missing_ok=True)
        self._scored = [part.folder for part, _ in finished.parts if self._evaluation.home in part.folder.parents]


def scalars(results: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """("task/metric", value) of all that is a finite number."""
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            yield f"{prefix}{name}", float(value)
