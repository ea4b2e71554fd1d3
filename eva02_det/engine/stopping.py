"""Stops a training or an evaluation that was told to, where all ranks can, with everything saved."""

from collections.abc import Callable, Iterator
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from eva02_det.checkpoint.checkpointer import DetectorCheckpointer
from eva02_det.launch import preemption
from eva02_det.utils.errors import LoneError, UserError

Stop = Callable[[str], Any]  # called with "USR2" or "TERM" in all ranks; ends the run


class StopHook(HookBase):
    """Asks after each iteration whether to stop, the last of all hooks; then saves what the iteration left, and ends the run."""

    def __init__(self, checkpointer: DetectorCheckpointer) -> None:
        self._checkpointer = checkpointer

    def after_step(self) -> None:
        if notice := preemption.stop_agreed():
            self.stop(notice)

    def stop(self, notice: str) -> None:
        """Save and end; all ranks together, after an iteration."""
        iteration = self.trainer.iter
        if iteration + 1 < self.trainer.max_iter:  # the last one was saved as it was done
            self._checkpointer.save(f"model_{iteration:07d}", required=True, iteration=iteration)
        preemption.stop(notice)


class ToldToStop(Exception):
    """All ranks were told to stop in the middle of an evaluation, which is given up. `notice` is "USR2" or "TERM"."""

    def __init__(self, notice: str) -> None:
        super().__init__(notice)
        self.notice = notice


class StoppableLoader:
    """A test loader that asks before each batch whether to stop, as long as every rank still has one, and raises ToldToStop."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._asked = min(comm.all_gather(len(loader)))  # ranks may have one batch more or less

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._loader)
        for number in range(len(self)):
            if number < self._asked and (notice := preemption.stop_agreed()):
                raise ToldToStop(notice)
            yield self._next(batches)

    @staticmethod
    def _next(batches: Iterator[Any]) -> Any:
        """The next batch; the other ranks, which read other images, do not hear of an error."""
        try:
            return next(batches)
        except UserError as error:
            raise LoneError(str(error)) from error
