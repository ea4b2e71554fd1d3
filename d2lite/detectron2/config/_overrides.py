"""Changes a config by `a.b.c=value` texts."""

from collections.abc import Iterable

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf


def apply(cfg: DictConfig, overrides: Iterable[str]) -> DictConfig:
    """Set each key in turn, in place. Hydra's grammar: numbers, quoted text, lists, dicts, null, true and false.

    `key=value` and `+key=value` mean the same: keys that are absent are made. `~key` raises NotImplementedError,
    a key below something that is not a config KeyError.
    """
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if override.is_delete():
            raise NotImplementedError(f"~{key}: keys cannot be deleted; set {key}=null instead")
        _check_parents(cfg, key)
        OmegaConf.update(cfg, key, override.value(), merge=True)
    return cfg


def _check_parents(cfg: DictConfig, key: str) -> None:
    parent, dot, _ = key.rpartition(".")
    while dot:
        value = OmegaConf.select(cfg, parent)
        if value is not None and not OmegaConf.is_config(value):
            raise KeyError(f"cannot set {key}: {parent} is {value!r}, of type {type(value).__name__}, and has no keys")
        parent, dot, _ = parent.rpartition(".")
