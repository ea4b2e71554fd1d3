"""Loads the weights of any supported file into a model, or says in one sentence why it does not."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eva02_det.checkpoint.account import Account
from eva02_det.checkpoint.hub import find_file
from eva02_det.checkpoint.io import read_file, state_dict_of, weights_entry
from eva02_det.checkpoint.remap import Fit, Target
from eva02_det.utils.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What to take from a file, and how; the options of `load_weights`."""

    which: str = "model"
    new_weights: tuple[str, ...] = ()
    resize: str = "bicubic"
    remedy: str = (
        "pass the config it was trained with, or name what shall start anew in train.new_weights"  # of what does not fit
    )


def load_weights(
    model: nn.Module,
    source: str | Path,
    *,
    which: str = "model",
    new_weights: Sequence[str] = (),
    resize: str = "bicubic",
) -> Account:
    """Fill `model` from `source` and return the account of all keys; nothing is changed where something does not fit.

    A model on the meta device is only checked: before a run, this tells whether a file fits without memory for the model.

    Args:
        source: a file, a model folder, `hf://owner/name/file`, `timm/<model name>` or a URL, see `find_file`.
        which: "model", or "ema" for averaged weights.
        new_weights: regular expressions of model keys that start anew, whether the file lacks them, holds another shape
            or would fit (as many classes, but others).
        resize: "bicubic" (as released) or "pseudo_inverse", for patch kernels of another size.

    Raises:
        UserError: with every key that does not fit, and its shapes.
    """
    return load_content(model, read_file(find_file(source)), str(source), Choice(which, tuple(new_weights), resize))


def load_content(model: nn.Module, content: Mapping[str, Any], origin: str, choice: Choice = Choice()) -> Account:
    """`load_weights` from what a file holds."""
    target = Target.of(_unwrapped(model))
    weights = _chosen(content, origin, choice.which, target)
    _refuse_gelu(weights, target, origin)
    fit = Fit(weights, target, origin, new=choice.new_weights, resize=choice.resize, averaged=choice.which == "ema")
    for key, value in weights_entry(content, origin, choice.which).items():
        if not isinstance(value, Tensor):
            fit.account.dropped[key] = f"no tensor but {type(value).__name__}"
    problems = fit.account.problems()
    if problems:
        raise UserError(f"checkpoint {origin} ({fit.layout.name}) is not one of this model: {problems}; {choice.remedy}")
    if not any(tensor.is_meta for tensor in target.state.values()):
        with torch.no_grad():
            for name, tensor in fit.weights.items():
                target.state[name].copy_(tensor)
    logger.info("%s: %s", origin, fit.account.summary())
    return fit.account


def check_source(source: str | Path, which: str = "model") -> Path:
    """The local file of `source`, known to be readable and to hold the weights asked for; cheap, and before any model."""
    path = find_file(source)
    state_dict_of(read_file(path), str(source), which)
    return path


def _chosen(content: Mapping[str, Any], origin: str, which: str, target: Target) -> dict[str, Tensor]:
    """The weights asked for. An average of parameters only is completed by the buffers beside it."""
    weights = state_dict_of(content, origin, which)
    if which == "ema" and any(isinstance(content.get(key), dict) for key in ("model", "module")):
        raw = state_dict_of(content, origin)
        weights |= {key: raw[key] for key in target.buffers if key in raw and key not in weights}
    return weights


def _refuse_gelu(weights: Mapping[str, Tensor], target: Target, origin: str) -> None:
    """UserError for a file with plain GELU layers where the model has gated ones, under our names or timm's."""
    if not any(key.endswith(".mlp.w3.weight") for key in target.state):
        return
    for key, into in weights.items():
        back = weights.get(key.replace(".mlp.fc1.", ".mlp.fc2."))
        # timm's fc1 of a gated layer holds two matrices, and is twice as high as its fc2 is wide
        if key.endswith(".mlp.fc1.weight") and back is not None and back.shape[-1] == into.shape[0]:
            raise UserError(
                f"checkpoint {origin} has GELU feed-forward layers ({key}) and this model has SwiGLU ones, which cannot be made "
                f"of them; start from weights that were pre-trained with SwiGLU (student.feed_forward=swiglu)"
            )


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside a wrapper of torch.nn.parallel."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, parallel) else model
