"""Reads weights as tensors only, finds the state dict in the published nestings, and writes weights."""

import argparse
import pickle
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from eva02_det.checkpoint.tables import AVERAGES, NESTINGS
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import atomic_path


def read_file(path: str | Path, *, allow_namespace: bool = False) -> dict[str, Any]:
    """Everything in a .pt, .pth or .safetensors file, tensors and plain containers only; UserError where it cannot be had.

    Tensors stay in the file until they are used: whoever keeps one copies it. `allow_namespace` also accepts
    argparse.Namespace, in which training scripts keep their options: a bag of attributes without code of its own.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; correct train.init_checkpoint or the path")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    with torch.serialization.safe_globals([argparse.Namespace]) if allow_namespace else nullcontext():
        content = _read_torch(path)
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path} holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"checkpoint {path} is truncated or not a safetensors file; copy or download it again") from error


def _read_torch(path: Path) -> Any:
    if path.suffix == ".pkl":
        raise UserError(
            f"checkpoint {path} is a pickle, and unpickling runs code; convert it with tools/convert_checkpoint.py, which "
            f"reads nothing but arrays from it, and pass the result"
        )
    try:
        # files of before torch 1.6 are no archives and cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path)) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"checkpoint {path} is truncated or not a torch file; copy or download it again") from error


def _refusal(path: Path) -> str:
    """Why a file is not unpickled, and what to do."""
    try:
        objects = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (ValueError, RuntimeError, pickle.UnpicklingError):  # not an archive
        objects = []
    if objects == ["argparse.Namespace"]:
        remedy = "run tools/convert_checkpoint.py on it, which accepts this one class since it has no code to run"
    else:
        remedy = "re-save its state dict alone with torch.save, where the file comes from"
    named = f" ({', '.join(sorted(objects))})" if objects else ""
    return f"checkpoint {path} holds objects other than tensors{named} and is not loaded, since unpickling runs code; {remedy}"


def state_dict_of(content: Mapping[str, Any], origin: str | Path, which: str = "model") -> dict[str, Tensor]:
    """The weights in a file's content, bare or nested, without the prefix of DataParallel; which="ema": the averaged ones."""
    chosen = weights_entry(content, origin, which)
    tensors = {key: value for key, value in chosen.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"checkpoint {origin} holds no weights; expected a state dict, bare or under {', '.join(NESTINGS)}")
    wrapped = all(key.startswith("module.") for key in tensors)
    return {key.removeprefix("module."): value for key, value in tensors.items()} if wrapped else tensors


def weights_entry(content: Mapping[str, Any], origin: str | Path, which: str = "model") -> Mapping[str, Any]:
    """The part of a file's content that holds the weights asked for, with all that is in it."""
    if which not in {"model", "ema"}:
        raise ValueError(f"which={which!r} names no weights; choose 'model' or 'ema'")
    if which == "ema" and not any(isinstance(content.get(key), dict) for key in AVERAGES):
        raise UserError(
            f"checkpoint {origin} holds no averaged weights (no {' or '.join(AVERAGES)}, only {', '.join(_names(content))}); "
            f"use its raw weights or a file of a run with averaging on"
        )
    nestings = AVERAGES if which == "ema" else NESTINGS
    return next((content[key] for key in nestings if isinstance(content.get(key), dict)), content)


def _names(content: Mapping[str, Any], count: int = 5) -> list[str]:
    return [*list(content)[:count], *(["..."] if len(content) > count else [])]


def write_weights(path: str | Path, weights: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a state dict, whole or not at all: .safetensors flat with `metadata`, any other name as {"model": ...}."""
    with atomic_path(path) as beside:
        if Path(path).suffix == ".safetensors":
            save_file(_unshared(weights), beside, metadata)
        else:
            torch.save({"model": dict(weights)}, beside)


def _unshared(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous, on the CPU, and no two in one place, which safetensors refuses; copies only where that is not so already."""
    result: dict[str, Tensor] = {}
    places: set[int] = set()
    for key, value in weights.items():
        value = value.detach().cpu().contiguous()
        result[key] = value.clone() if value.untyped_storage().data_ptr() in places else value
        places.add(value.untyped_storage().data_ptr())
    return result
