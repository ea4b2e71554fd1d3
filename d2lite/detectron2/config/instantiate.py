"""Makes the objects that a tree of delayed calls describes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ._names import dotted_name, find_named


def instantiate(cfg: Any) -> Any:
    """Call `_target_` of `cfg` with its other entries, innermost calls first.

    Lists are walked. A mapping without `_target_`, and anything that is neither list nor mapping, comes back as it
    is: what a component wants to keep as a config stays one. A node that appears twice is built twice.
    """
    if isinstance(cfg, ListConfig):
        return ListConfig([instantiate(item) for item in cfg], flags={"allow_objects": True})
    if isinstance(cfg, list):
        return [instantiate(item) for item in cfg]
    if isinstance(cfg, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(cfg)):
        return OmegaConf.to_object(cfg)
    if isinstance(cfg, Mapping) and "_target_" in cfg:
        return _call(cfg)
    return cfg


def _call(node: Mapping[str, Any]) -> Any:
    target = instantiate(node["_target_"])
    if isinstance(target, str):
        target = find_named(target)
    if not callable(target):
        raise TypeError(f"_target_ must be something that can be called, not {target!r}")
    arguments = {str(key): instantiate(value) for key, value in node.items() if key != "_target_"}
    try:
        return target(**arguments)
    except TypeError:
        name = dotted_name(target) if hasattr(target, "__qualname__") else repr(target)
        logging.getLogger(__name__).error(f"calling {name} with {', '.join(arguments) or 'no arguments'} failed")
        raise
