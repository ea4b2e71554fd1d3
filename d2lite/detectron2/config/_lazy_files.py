"""Runs config files; `from ..folder.file import name` in one of them finds the other by its path."""

import builtins
import os
import sys
import types
from typing import Any

from omegaconf import DictConfig

from ..utils.file_io import PathManager

PACKAGE = "lazy_config"  # what relative imports are relative to, as far as Python is concerned


def as_config(value: Any) -> Any:
    """Turn a plain dict into a DictConfig, which may hold any object; leave everything else alone."""
    return DictConfig(value, flags={"allow_objects": True}) if isinstance(value, dict) else value


def run_config_file(file: str, importers: tuple[str, ...] = ()) -> dict[str, Any]:
    """Names that the config file defines. It is run anew each time, so no two configs share a tree.

    importers: the files whose imports led here, outermost first.
    """
    with PathManager.open(file, "r") as stream:
        source = stream.read()
    try:
        code = compile(source, file, "exec")
    except SyntaxError as error:
        raise SyntaxError(f"{file}, line {error.lineno}: {error.msg}") from error
    names = {
        "__name__": f"{PACKAGE}.{os.path.splitext(os.path.basename(file))[0]}",
        "__package__": PACKAGE,
        "__file__": file,
        # an importer of their own: the file's code and its functions look `__import__` up here, nobody else does
        "__builtins__": {**vars(builtins), "__import__": _Importer(file, importers)},
    }
    exec(code, names)
    return names


class _Importer:
    """Stands in for `__import__` within one config file."""

    def __init__(self, file: str, importers: tuple[str, ...]) -> None:
        self.file = file
        self.chain = (*importers, os.path.abspath(file))

    def __call__(self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level == 0:
            return builtins.__import__(name, globals, locals, fromlist, level)
        where = f"{self.file}, line {sys._getframe(1).f_lineno}"
        path = self._find(name, level, where)
        if os.path.abspath(path) in self.chain:
            raise ImportError(f"{where}: {path} imports this config in turn")
        module = types.ModuleType(f"{PACKAGE}.{name}")
        module.__dict__.update(run_config_file(path, self.chain))
        for wanted in fromlist:
            if wanted == "*":
                raise ImportError(f"{where}: 'import *' is not for configs; import each name of {path}")
            if wanted not in vars(module):
                raise ImportError(f"{where}: {path} defines no {wanted!r}")
            setattr(module, wanted, as_config(getattr(module, wanted)))
        return module

    def _find(self, name: str, level: int, where: str) -> str:
        dots = "." * level
        if not name:
            raise ImportError(f"{where}: 'from {dots} import' names a folder; name the file, 'from {dots}file import name'")
        folder = os.path.dirname(self.file)
        for _ in range(level - 1):
            folder = os.path.join(folder, os.pardir)
        path = os.path.normpath(os.path.join(folder, *name.split(".")) + ".py")
        if not PathManager.isfile(path):
            raise ImportError(f"{where}: 'from {dots}{name} import' needs the file {path}, which does not exist")
        return path
