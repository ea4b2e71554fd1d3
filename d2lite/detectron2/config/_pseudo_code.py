"""A config as text that reads like the Python which made it."""

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf

from ._names import dotted_name


def to_py(cfg: Any, prefix: str = "cfg.") -> str:
    """One assignment a line. For reading and comparing; not meant to be run."""
    tree = OmegaConf.to_container(cfg, resolve=False) if OmegaConf.is_config(cfg) else cfg
    return "".join(f"{line}\n" for line in _assignments(tree, prefix.rstrip(".")))


def _assignments(tree: Any, name: str) -> Iterator[str]:
    if not isinstance(tree, Mapping) or "_target_" in tree or not tree:
        yield f"{name} = {_expression(tree)}"
        return
    for key, value in tree.items():
        plain = isinstance(key, str) and key.isidentifier()
        yield from _assignments(value, f"{name}.{key}" if plain else f"{name}[{key!r}]")


def _expression(tree: Any) -> str:
    if isinstance(tree, list):
        return f"[{', '.join(_expression(item) for item in tree)}]"
    if isinstance(tree, Mapping) and "_target_" in tree:
        target = tree["_target_"]
        called = target if isinstance(target, str) else _expression(target)
        return f"{called}({', '.join(f'{key}={_expression(value)}' for key, value in tree.items() if key != '_target_')})"
    if isinstance(tree, Mapping):
        return f"{{{', '.join(f'{key!r}: {_expression(value)}' for key, value in tree.items())}}}"
    return dotted_name(tree) if callable(tree) and hasattr(tree, "__qualname__") else repr(tree)
