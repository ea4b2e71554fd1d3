"""The checkpointer of detection models."""

from __future__ import annotations

import os
import pickle
from typing import Any
from urllib.parse import urlsplit

import torch
from fvcore.common.checkpoint import Checkpointer, _IncompatibleKeys
from torch import nn

from ..utils import comm
from ..utils.file_io import PathManager

# Computed from the config when a model is built, and therefore no loss where a file lacks them.
_CONSTANTS = ("pixel_mean", "pixel_std")
_ANCHORS = "anchor_generator.cell_anchors"  # saved by early versions of the API


class DetectionCheckpointer(Checkpointer):
    """fvcore's Checkpointer that writes in the first process only and reads tensors only.

    A file is `{"model": state dict, ...}` or a bare state dict, as torch.save writes it.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any) -> None:
        writes = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=writes, **checkpointables)
        self.path_manager = PathManager

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As fvcore's. Where only the first process can see the file, the others take its model and checkpointables."""
        if not path or comm.get_world_size() == 1:
            return super().load(path, *args, **kwargs)
        seen = comm.all_gather(os.path.isfile(self.path_manager.get_local_path(path)))
        if not seen[0]:
            raise OSError(f"the first process cannot read {path}")
        if all(seen):
            return super().load(path, *args, **kwargs)
        rest = super().load(path, *args, **kwargs) if comm.is_main_process() else None
        return self._share_from_main(rest, *args, **kwargs)

    def _share_from_main(self, rest: dict[str, Any] | None, checkpointables: list[str] | None = None) -> dict[str, Any]:
        names = list(self.checkpointables) if checkpointables is None else checkpointables
        objects = {"model": self.model, **{name: self.checkpointables[name] for name in names}}
        states = {name: thing.state_dict() for name, thing in objects.items()} if comm.is_main_process() else {}
        states, rest = comm.all_gather((states, rest))[0]
        if not comm.is_main_process():
            for name, thing in objects.items():
                thing.load_state_dict(states[name])
        return rest or {}

    def _load_file(self, f: str) -> dict[str, Any]:
        if urlsplit(f).path.endswith(".pkl"):
            raise ValueError(f"{f} is a pickled file of a model zoo; d2lite reads what torch.save wrote, official detectron2 both")
        try:
            content = torch.load(f, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(f"{f} is not a checkpoint of tensors and plain values: {str(error).splitlines()[0]}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{f} holds a {type(content).__name__}, not the dict of a checkpoint")
        return content if "model" in content else {"model": content}

    def _load_model(self, checkpoint: Any) -> _IncompatibleKeys:
        account = super()._load_model(checkpoint)
        own = dict(self.model.named_buffers(recurse=False))
        absent = [key for key in account.missing_keys if not (key in _CONSTANTS and key in own)]
        extra = [key for key in account.unexpected_keys if _ANCHORS not in key]
        return account._replace(missing_keys=absent, unexpected_keys=extra)
