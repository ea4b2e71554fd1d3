"""The checkpointer of detection models."""

from __future__ import annotations

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

    def _load_file(self, f: str) -> dict[str, Any]:
        if urlsplit(f).path.endswith(".pkl"):
            raise ValueError(f"{f} is a pickle of a model zoo; d2lite reads what torch.save wrote, official detectron2 both")
        try:
            content = torch.load(f, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:  # code, damaged, cut short
            reason = (str(error) or "it ends too early").splitlines()[0]
            raise ValueError(f"{f} is not a checkpoint of tensors and plain values: {reason}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{f} holds a {type(content).__name__}, not the dict of a checkpoint")
        return content if "model" in content else {"model": content}

    def _load_model(self, checkpoint: Any) -> _IncompatibleKeys:
        account = super()._load_model(checkpoint)
        own = dict(self.model.named_buffers(recurse=False))
        absent = [key for key in account.missing_keys if not (key in _CONSTANTS and key in own)]
        extra = [key for key in account.unexpected_keys if _ANCHORS not in key]
        return account._replace(missing_keys=absent, unexpected_keys=extra)
