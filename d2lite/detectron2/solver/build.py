"""Parameter groups for an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

__all__ = ["get_default_optimizer_params"]

NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm),
)

Options = dict[str, Any]


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, Options] | None = None,
) -> list[Options]:
    """One group per set of options, with every trainable parameter of `model` in exactly one.

    weight_decay_norm, weight_decay_bias: decay of normalisation layers and of parameters called "bias"; None: as the
    others. bias_lr_factor: times `base_lr` for biases. lr_factor_func: full name -> factor of the learning rate.
    overrides: own name ("bias", "pos_embed") -> options that win over all others.
    """
    if base_lr is None and (lr_factor_func is not None or bias_lr_factor not in (None, 1.0)):
        raise ValueError("lr_factor_func and bias_lr_factor multiply base_lr: give base_lr as well")
    by_name = _with_bias(dict(overrides or {}), base_lr, bias_lr_factor, weight_decay_bias)
    common = _given(lr=base_lr, weight_decay=weight_decay)
    groups: dict[tuple[tuple[str, Any], ...], list[nn.Parameter]] = {}
    for module, prefix, name, parameter in _trainable(model):
        options = dict(common)
        if isinstance(module, NORMS):
            options |= _given(weight_decay=weight_decay_norm)
        if lr_factor_func is not None:
            options["lr"] *= lr_factor_func(f"{prefix}.{name}")
        options |= by_name.get(name, {})
        groups.setdefault(tuple(sorted(options.items())), []).append(parameter)
    return [{"params": members, **dict(options)} for options, members in groups.items()]


def _trainable(model: nn.Module) -> Iterator[tuple[nn.Module, str, str, nn.Parameter]]:
    """(module, its name, own name, parameter); one that several modules share comes once, where it is met first."""
    met: set[int] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in met:
                met.add(id(parameter))
                yield module, prefix, name, parameter


def _with_bias(by_name: dict[str, Options], lr: float | None, factor: float | None, decay: float | None) -> dict[str, Options]:
    scaled = lr * factor if lr is not None and factor not in (None, 1.0) else None
    bias = _given(lr=scaled, weight_decay=decay)
    if bias and "bias" in by_name:
        raise ValueError("'bias' is in overrides, and bias_lr_factor or weight_decay_bias is set too: choose one")
    return {**by_name, "bias": bias} if bias else by_name


def _given(**options: float | None) -> Options:
    return {name: value for name, value in options.items() if value is not None}
