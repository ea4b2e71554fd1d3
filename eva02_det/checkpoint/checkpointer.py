"""The checkpointer of a detector: whole files, tensors only, and an error where weights do not fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from eva02_det.checkpoint.hub import find_file
from eva02_det.checkpoint.io import read_file
from eva02_det.checkpoint.load import Choice, load_content
from eva02_det.checkpoint.tables import NESTINGS
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import atomic_path, write_text


class DetectorCheckpointer(DetectionCheckpointer):
    """Saves atomically; loads whatever `load_weights` loads, and resumes.

    Weights that do not fit raise UserError and leave the model as it was. A checkpointable called `ema_state` (name of a
    parameter -> its average) becomes the entry of that name in the file, as in the authors' files.

    Args:
        which, new_weights, resize: see `load_weights`. A run's own checkpoint is resumed whole: they do not apply to it.
        **checkpointables: objects with state_dict and load_state_dict. The tensors that load_state_dict receives lie in the
            file still: copy what is kept.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        which: str = "model",
        new_weights: Sequence[str] = (),
        resize: str = "bicubic",
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self._choice = Choice(which, tuple(new_weights), resize)
        self._resuming = False

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth` beside and move it into place, then point `last_checkpoint` at it."""
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content.update({key: value.state_dict() for key, value in self.checkpointables.items()})
        content.update(kwargs)
        target = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", target)
        with atomic_path(target) as path:
            torch.save(content, path)
        self.tag_last_checkpoint(target.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the newest checkpoint of the folder."""
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load the model and, with `checkpointables` None or named, what was saved beside it; returns the rest of the file."""
        return super().load(str(find_file(path)) if path else path, checkpointables)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """The newest checkpoint of `save_dir` with everything in it if `resume` and there is one, else the weights at `path`."""
        self._resuming = resume and self.has_checkpoint()
        try:
            return super().resume_or_load(path, resume=resume)
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
        for key in [key for key, value in checkpoint.items() if key in NESTINGS or isinstance(value, torch.Tensor)]:
            del checkpoint[key]  # what is handed on is the rest
