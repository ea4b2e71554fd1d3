"""Configs as YAML text, with the Python objects that configs hold."""

import dataclasses
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode

from ._names import dotted_name, find_named


class NotInYaml(ValueError):
    """The config holds an object that could not be read back."""


class _Dumper(yaml.Dumper):
    def ignore_aliases(self, data: Any) -> bool:  # an anchor would tie two nodes together that overrides treat as two
        return True


def _by_name(dumper: yaml.Dumper, thing: Any) -> yaml.Node:
    return dumper.represent_scalar(f"tag:yaml.org,2002:python/name:{dotted_name(_importable(thing))}", "")


def _dtype(dumper: yaml.Dumper, dtype: torch.dtype) -> yaml.Node:
    return dumper.represent_scalar(f"tag:yaml.org,2002:python/name:{dtype}", "")


for _kind in (type(_by_name), type(len)):
    _Dumper.add_representer(_kind, _by_name)
_Dumper.add_multi_representer(type, _by_name)
_Dumper.add_representer(torch.dtype, _dtype)


def _plain(tree: Any) -> Any:
    """Targets become names and dataclasses become nodes that call them; all else stays."""
    if isinstance(tree, list):
        return [_plain(item) for item in tree]
    if isinstance(tree, dict):
        return {key: _target(value) if key == "_target_" else _plain(value) for key, value in tree.items()}
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = {field.name: _plain(getattr(tree, field.name)) for field in dataclasses.fields(tree) if field.init}
        return {"_target_": dotted_name(type(tree)), **fields}
    return tree


def _target(target: Any) -> Any:
    return dotted_name(_importable(target)) if hasattr(target, "__qualname__") else _plain(target)


def _importable(thing: Any) -> Any:
    """`thing` itself, or NotInYaml where its name does not lead back to it."""
    name = dotted_name(thing)
    try:
        known = find_named(name) is thing
    except ImportError:
        known = False
    if not known:
        raise NotInYaml(f"{thing!r} cannot be imported as {name}")
    return thing


def to_yaml(cfg: Any) -> str:
    """YAML of a config; interpolations are kept. NotInYaml where reading it back would not give the same tree."""
    tree = OmegaConf.to_container(cfg, resolve=False, structured_config_mode=SCMode.INSTANTIATE)
    try:
        text = yaml.dump(_plain(tree), Dumper=_Dumper, default_flow_style=None, allow_unicode=True, width=9999, sort_keys=True)
        yaml.unsafe_load(text)
    except Exception as error:  # objects raise what they like when they are copied
        raise NotInYaml(str(error)) from error
    return text


def from_yaml(text: str) -> DictConfig | ListConfig:
    """The config that `to_yaml` wrote. Like a config in Python it may name any callable: read only what you trust."""
    return OmegaConf.create(yaml.unsafe_load(text), flags={"allow_objects": True})
