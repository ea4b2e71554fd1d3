"""The checkpointer of a detector: whole files, tensors only, and an error where weights do not fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from eva02_det.checkpoint.host import HostCopies
from eva02_det.checkpoint.hub import find_file
from eva02_det.checkpoint.io import read_file
from eva02_det.checkpoint.load import Choice, load_content
from eva02_det.checkpoint.store import CheckpointStore, check_retention
from eva02_det.checkpoint.tables import NESTINGS
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_text
from eva02_det.utils.processes import on_main

POINTER = "last_checkpoint"


class DetectorCheckpointer(DetectionCheckpointer):
    """Saves whole files, loads whatever `load_weights` loads, and resumes from the newest file that is whole.

    `save`, `has_checkpoint` and `resume_or_load` are for all ranks together: some states are gathered, and what the main process
    finds or cannot write all must know.

    Weights that do not fit raise UserError and leave the model as it was. A checkpointable called `ema_state` (name of a
    parameter -> its average) becomes the entry of that name in the file, as in the authors' files.

    Args:
        keep, every, asynchronous: of the files `model_<iteration>.pth`, see `CheckpointStore`.
        which, new_weights, resize: see `load_weights`. A run's own checkpoint is resumed whole: they do not apply to it.
        **checkpointables: objects with state_dict and load_state_dict. On resuming the latter may keep what it gets; else the
            tensors lie in the file still.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        keep: int | None = None,
        every: int | None = None,
        asynchronous: bool = False,
        which: str = "model",
        new_weights: Sequence[str] = (),
        resize: str = "bicubic",
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self._choice = Choice(which, tuple(new_weights), resize)
        self._resuming = False
        check_retention("train.checkpointer", keep, every, key="max_to_keep")
        self.store = CheckpointStore(
            save_dir,
            prefix="model_",
            suffix=".pth",
            keep=keep,
            every=every,
            asynchronous=asynchronous,
            offset=1,  # model_0004999 is written after 5000 iterations
            pointer=POINTER,
        )

    def save(self, name: str, *, required: bool = False, **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth` and point `last_checkpoint` at it.

        Where it cannot be written the run goes on with a warning, unless it ends with this one (`required`): then UserError in
        all ranks.
        """
        content = {"model": self.model.state_dict()}
        content.update({key: value.state_dict() for key, value in self.checkpointables.items()})
        content.update(kwargs)
        writes = bool(self.save_dir) and self.save_to_disk
        if required:
            on_main(lambda: self.store.write(name, content, required=True) if writes else None)
        elif writes:
            self.store.write(name, content)

    def wait(self) -> None:
        """Until nothing is being written beside the training; raises what went wrong."""
        self.store.wait()

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from, as the main process sees the folder."""
        return bool(self.save_dir) and on_main(self.store.has_any)

    def get_checkpoint_file(self) -> str:
        """The newest checkpoint of `save_dir` that is whole, as the main process finds it; empty where there is none."""
        found = on_main(self.store.newest) if self.save_dir else None
        return "" if found is None else str(found)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the newest checkpoint of the folder."""
        write_text(Path(self.save_dir) / POINTER, last_filename_basename)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load the model and, with `checkpointables` None or named, what was saved beside it; returns the rest of the file."""
        return super().load(str(find_file(path)) if path else path, checkpointables)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """The newest whole checkpoint of `save_dir`, all of it, if `resume` and there is any, else the weights at `path`."""
        if resume and comm.is_main_process() and self.save_dir:
            self.store.remove_leftovers()
        newest = self.get_checkpoint_file() if resume else ""
        self._resuming = bool(newest)
        try:
            return self.load(newest) if newest else self.load(path, checkpointables=[])
        finally:
            self._resuming = False

    def _load_file(self, filename: str) -> dict[str, Any]:
        return {**read_file(filename), "origin": filename}

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        origin = checkpoint.pop("origin")
        lost = [key for key in self.checkpointables if key not in checkpoint] if self._resuming else []
        if lost:
            raise UserError(f"checkpoint {origin} holds no {', '.join(lost)}, so the run cannot go on from it; start it anew")
        load_content(self.model, checkpoint, origin, Choice() if self._resuming else self._choice)
        if self._resuming:
            for key in self.checkpointables:  # an old checkpoint that is removed while its tensors are in use keeps its room
                checkpoint[key] = HostCopies().take(checkpoint[key])
        for key in [key for key, value in checkpoint.items() if key in NESTINGS or isinstance(value, torch.Tensor)]:
            del checkpoint[key]  # what is handed on is the rest


class CheckpointHook(HookBase):
    """Saves `model_<iteration>` each `period` iterations and `model_final` after the last; for every rank.

    The last one is required. A failure of a write beside the training is raised at the next step.
    """

    def __init__(self, checkpointer: DetectorCheckpointer, period: int) -> None:
        if period < 1:
            raise UserError(f"train.checkpointer.period={period} must be at least 1 iteration")
        self._checkpointer, self._period = checkpointer, int(period)

    def after_step(self) -> None:
        self._checkpointer.store.check()
        done = self.trainer.iter + 1
        if done % self._period == 0:
            self._checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
        if done >= self.trainer.max_iter:
            self._checkpointer.save("model_final", required=True, iteration=self.trainer.iter)

    def after_train(self) -> None:
        self._checkpointer.wait()
