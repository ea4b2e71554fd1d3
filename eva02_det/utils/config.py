"""Loads a LazyConfig with overrides, and refuses an override that would change nothing."""

import difflib
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from pydoc import locate
from typing import Any

from detectron2.config import LazyConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from eva02_det.utils.errors import UserError


def load_config(file: str | Path, overrides: Iterable[str] = ()) -> DictConfig:
    """The config of `file` with `a.b.c=value` overrides (Hydra's grammar); `+a.b=value` adds a key on purpose.

    Raises UserError for a missing file and for an override whose key neither exists nor is an argument of
    what the config builds there.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"config file {path} does not exist; pass a .py or .yaml config to --config-file")
    return apply_overrides(LazyConfig.load(str(path)), overrides)


def apply_overrides(config: DictConfig, overrides: Iterable[str]) -> DictConfig:
    """Set `a.b.c=value` texts in `config`, which is changed and returned; UserError as in `load_config`."""
    overrides = list(overrides)
    plain = [check_override(config, text) for text in overrides]
    try:
        return LazyConfig.apply_overrides(config, plain)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot apply the overrides {' '.join(overrides)}: {_first_line(error)}") from error


def check_override(config: DictConfig, text: str) -> str:
    """The override without its leading `+`; UserError where it names nothing."""
    key, equals, _ = text.partition("=")
    if key.startswith("--"):
        raise UserError(f"the option {text} comes after overrides and would be taken for one; give options first")
    if not equals:
        raise UserError(f"override {text!r} is not of the form key=value; write for example train.max_iter=100")
    if key.startswith("~"):
        raise UserError(f"override {text!r}: deleting keys is not supported; set the key to null instead")
    if key.startswith("+"):
        return text.lstrip("+")
    node: Any = config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        known = _keys(node)
        if part not in known:
            where = ".".join(parts[:depth]) or "the config"
            if depth == len(parts) - 1 and accepts(node, part):
                break
            raise UserError(_unknown(key, part, where, [*known, *arguments(node)]))
        node = _child(node, part)
    return text


def arguments(node: Any) -> list[str]:
    """Names of the arguments that the target of a LazyCall node takes; empty for other nodes."""
    target = _target(node)
    if target is None:
        return []
    makers = [vars(k)["__init__"] for k in target.__mro__ if "__init__" in vars(k)] if isinstance(target, type) else [target]
    names: list[str] = []
    for maker in makers:
        parameters = [] if maker is object.__init__ else inspect.signature(maker).parameters.values()
        names += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break  # only what is passed on with ** reaches the next class
    return names


def accepts(node: Any, name: str) -> bool:
    """Whether the target of a LazyCall node takes an argument `name`."""
    return name in arguments(node)


def get(config: Any, key: str, default: Any = None) -> Any:
    """`config.a.b.c` or the default where any part is absent."""
    value = OmegaConf.select(config, key, default=default)
    return default if value is None else value


def _target(node: Any) -> Callable[..., Any] | None:
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return None
    target = node["_target_"]
    found = locate(target) if isinstance(target, str) else target
    return found if callable(found) else None


def _keys(node: Any) -> list[str]:
    if isinstance(node, DictConfig):
        return [str(key) for key in node]
    if isinstance(node, ListConfig):
        return [str(i) for i in range(len(node))]
    return []


def _child(node: Any, part: str) -> Any:
    return node[int(part)] if isinstance(node, ListConfig) else node[part]


def _unknown(key: str, part: str, where: str, known: list[str]) -> str:
    close = difflib.get_close_matches(part, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(sorted(set(known))) or 'no keys'}"
    return f"unknown override key {key!r}: {where} has no {part!r}; {hint} (write +{key}=... to add a key on purpose)"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
