"""LazyConfig files (Python or YAML) and LazyCall, which records a call instead of making it."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

import cloudpickle
from omegaconf import DictConfig, ListConfig

from ..utils.file_io import PathManager
from . import _overrides, _pseudo_code
from ._lazy_files import as_config, run_config_file
from ._lazy_yaml import NotInYaml, from_yaml, to_yaml
from ._names import dotted_name

__all__ = ["LazyCall", "LazyConfig"]


class LazyCall:
    """`LazyCall(f)(a=1)` is a config node from which `instantiate` makes `f(a=1)`.

    target: a callable, its dotted name, or a node that makes one.
    """

    def __init__(self, target: Any) -> None:
        if not (callable(target) or isinstance(target, str | Mapping)):
            raise TypeError(f"LazyCall takes a callable or the dotted name of one, not {target!r}")
        # OmegaConf would read a dataclass as the schema of a config; its name is only a name
        self._target = dotted_name(target) if dataclasses.is_dataclass(target) else target

    def __call__(self, **kwargs: Any) -> DictConfig:
        return DictConfig(dict(kwargs, _target_=self._target), flags={"allow_objects": True})


class LazyConfig:
    """Reads, changes and writes configs."""

    @staticmethod
    def load(filename: str, keys: str | tuple[str, ...] | None = None) -> Any:
        """Config in a .py or .yaml file.

        keys: a name of the file, whose value is returned, or several for a tuple. None: a DictConfig of all public
        names that hold a dict or a node.
        """
        filename = os.fspath(filename).replace("/./", "/")
        names = _read(filename)
        if isinstance(keys, str):
            return as_config(_named(names, keys, filename))
        if keys is not None:
            return tuple(as_config(_named(names, key, filename)) for key in keys)
        if not filename.endswith(".py"):
            return names
        public = {key: value for key, value in names.items() if not key.startswith("_")}
        trees = {key: as_config(value) for key, value in public.items() if isinstance(value, dict | DictConfig | ListConfig)}
        return DictConfig(trees, flags={"allow_objects": True})

    @staticmethod
    def load_rel(filename: str, keys: str | tuple[str, ...] | None = None) -> Any:
        """`load` with a path relative to the file that calls this."""
        caller = inspect.stack()[1].filename
        return LazyConfig.load(os.path.join(os.path.dirname(caller), filename), keys)

    @staticmethod
    def save(cfg: Any, filename: str) -> None:
        """Write YAML that `load` reads back. A config with objects YAML cannot hold goes to `filename`.pkl, with a warning."""
        try:
            text = to_yaml(cfg)
        except NotInYaml as reason:
            with PathManager.open(f"{filename}.pkl", "wb") as stream:
                cloudpickle.dump(cfg, stream)
            logging.getLogger(__name__).warning(f"the config does not fit YAML ({reason}); saved as {filename}.pkl instead")
            return
        with PathManager.open(filename, "w") as stream:
            stream.write(text)

    @staticmethod
    def apply_overrides(cfg: DictConfig, overrides: Iterable[str]) -> DictConfig:
        """Set `a.b.c=value` texts in `cfg`, which is changed and returned; Hydra's grammar."""
        return _overrides.apply(cfg, overrides)

    @staticmethod
    def to_py(cfg: Any, prefix: str = "cfg.") -> str:
        """Text that reads like the Python which made the config, for reading and comparing; it cannot be run."""
        return _pseudo_code.to_py(cfg, prefix)


def _read(filename: str) -> Any:
    if filename.endswith(".py"):
        return run_config_file(filename)
    if not filename.endswith((".yaml", ".yml")):
        raise ValueError(f"{filename} is not a config: its name ends neither in .py nor in .yaml")
    with PathManager.open(filename, "r") as stream:
        return from_yaml(stream.read())


def _named(names: Any, key: str, filename: str) -> Any:
    if key not in names:
        raise KeyError(f"{filename} defines no {key!r}")
    return names[key]
