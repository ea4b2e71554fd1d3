"""Where the numbers of a run go: the log, metrics.json, TensorBoard, and wandb where it is asked for."""

from collections import defaultdict
from pathlib import Path

from detectron2.engine import HookBase, hooks
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from omegaconf import DictConfig

from eva02_det.utils.config import get
from eva02_det.utils.json_lines import keep_lines
from eva02_det.utils.lenient import Lenient
from eva02_det.utils.wandb_run import WandbRun, open_run, wants_wandb

METRICS_FILE = "metrics.json"  # detectron2's names


class Tracking(HookBase):
    """Writes what the event storage holds each `train.log_period` iterations; for the main process.

    A resumed run takes out what the stopped one reported of iterations that are taken again: each point comes once.
    """

    def __init__(self, config: DictConfig) -> None:
        self._settings = config.train
        wants_wandb(get(config, "train.wandb"))
        self._writing: hooks.PeriodicWriter | None = None

    def before_train(self) -> None:
        writers = open_writers(self._settings, self.trainer.start_iter)
        self._writing = hooks.PeriodicWriter(writers, period=get(self._settings, "log_period", 20))
        self._writing.trainer = self.trainer

    def after_step(self) -> None:
        if self._writing is not None:
            self._writing.after_step()

    def after_train(self) -> None:
        if self._writing is not None:
            self._writing.after_train()


class OncePrinter(CommonMetricPrinter):
    """One line an iteration: asked again, as when a run is stopped, detectron2's divides by the iterations between, none."""

    _printed = -1

    def write(self) -> None:
        now = get_event_storage().iter
        if now != self._printed:
            self._printed = now
            super().write()


class LenientWriter(EventWriter):
    """Another writer, which may meet a full disk."""

    def __init__(self, writer: EventWriter, what: str) -> None:
        self._writer, self._lenient = writer, Lenient(what)

    def write(self) -> None:
        self._lenient(self._writer.write)

    def close(self) -> None:
        self._lenient(self._writer.close)


class WandbWriter(EventWriter):
    """The newest values of the storage, each at its iteration; smoothed as in the other writers."""

    def __init__(self, run: WandbRun, window_size: int = 20) -> None:
        self._run, self._window_size = run, window_size
        self._newest = -1

    def write(self) -> None:
        by_iteration: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, at) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            # the time to go is stored by the printer of the log, also for an iteration that was not finished
            if at > self._newest and name != "eta_seconds":
                by_iteration[at][name] = float(value)
        for at in sorted(by_iteration):
            self._run.log(at, by_iteration[at])
        self._newest = max([self._newest, *by_iteration])

    def close(self) -> None:
        self._run.close()


def open_writers(settings: DictConfig, start: int) -> list[EventWriter]:
    """The writers of a run that takes iteration `start` next."""
    folder = Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    keep_lines(folder / METRICS_FILE, lambda line: line.get("iteration", start) < start)
    writers: list[EventWriter] = [
        OncePrinter(settings.max_iter),
        LenientWriter(JSONWriter(str(folder / METRICS_FILE)), METRICS_FILE),
        LenientWriter(TensorboardXWriter(str(folder), purge_step=start), "TensorBoard's file"),
    ]
    run = open_run(folder, get(settings, "wandb"))
    return writers if run is None else [*writers, LenientWriter(WandbWriter(run), "wandb's files")]
