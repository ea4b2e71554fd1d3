"""Reads weights as tensors only, and finds the state dict in the published nestings."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eva02_det.utils.errors import UserError

NESTINGS = ("model", "module", "state_dict")


def read_file(path: str | Path) -> dict[str, Any]:
    """Everything in a .pth/.pt file, tensors and plain containers only; UserError where it cannot be had."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; check train.init_checkpoint or the run folder")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path} holds objects other than tensors and is not loaded, since unpickling runs code; "
            f"re-save its state dict alone with torch.save"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise UserError(f"checkpoint {path} is truncated or not a torch file; copy or download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path} holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    return content


def state_dict_of(content: dict[str, Any], origin: str | Path) -> dict[str, Tensor]:
    """The tensors of a file's content, bare or nested under `model`, `module` or `state_dict`."""
    for key in NESTINGS:
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = {key.removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"checkpoint {origin} holds no weights; expected a state dict, bare or under {', '.join(NESTINGS)}")
    return tensors
