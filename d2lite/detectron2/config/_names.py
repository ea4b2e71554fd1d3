"""Dotted names of Python objects, both ways."""

import pydoc
from typing import Any


def find_named(name: str) -> Any:
    """The object called `name`, such as "torch.nn.Linear"; ImportError where there is none."""
    try:
        found = pydoc.locate(name)
    except pydoc.ErrorDuringImport as error:
        raise ImportError(f"cannot import {name!r}: {error}") from error
    if found is None:
        raise ImportError(f"nothing is called {name!r}; check the spelling and that its package is installed")
    return found


def dotted_name(thing: Any) -> str:
    """Shortest public "package.name" under which `thing` is found.

    "torch.nn.Linear", although the class lives in torch.nn.modules.linear. Where no package above the defining
    module offers it, the defining module is named.
    """
    name = thing.__qualname__
    packages = thing.__module__.split(".")
    for depth in range(1, len(packages)):
        shorter = ".".join([*packages[:depth], name])
        if _finds(shorter, thing):
            return shorter
    return f"{thing.__module__}.{name}"


def _finds(name: str, thing: Any) -> bool:
    try:
        return pydoc.locate(name) is thing
    except pydoc.ErrorDuringImport:
        return False
