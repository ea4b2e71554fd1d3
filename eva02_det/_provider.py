"""Decides once, at import, whether `detectron2` is the official package or the `d2lite` that travels with this one."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

VARIABLE = "EVA02_DET_PROVIDER"
D2LITE = Path(__file__).resolve().parent.parent / "d2lite"


def activate() -> str:
    """Make `import detectron2` work here and in child processes; returns "official" or "d2lite".

    An official install wins. `EVA02_DET_PROVIDER` forces one of the two; asking for an official package
    that is absent is an error. The choice is exported, so spawned and submitted workers repeat it.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "official", "d2lite"):
        raise ImportError(f"{VARIABLE}={wanted!r} is not a provider; set it to 'official' or 'd2lite', or unset it")
    choice = _loaded() or wanted or ("official" if _official_installed() else "d2lite")
    if wanted and wanted != choice:
        raise ImportError(f"{VARIABLE}={wanted} came too late: detectron2 ({choice}) is imported already; import eva02_det first")
    if choice == "official":
        _require_official()
    else:
        _expose_d2lite()
    os.environ[VARIABLE] = choice
    return choice


def active() -> str:
    """The provider in use, as `activate` chose it."""
    return os.environ[VARIABLE]


def describe() -> str:
    """One line for the log: which detectron2 is in use and where it lies."""
    module = importlib.import_module("detectron2")
    return f"detectron2 provider: {active()}, version {module.__version__}, {Path(module.__file__ or '').parent}"


def _loaded() -> str:
    module = sys.modules.get("detectron2")
    if module is None:
        return ""
    return "d2lite" if D2LITE in Path(module.__file__ or "/").resolve().parents else "official"


def _outside_d2lite() -> list[str]:
    return [entry for entry in sys.path if Path(entry or ".").resolve() != D2LITE]


def _official_installed() -> bool:
    """Whether an import system without our folder on its path would find a detectron2."""
    everything = sys.path[:]
    sys.path[:] = _outside_d2lite()
    try:
        return importlib.util.find_spec("detectron2") is not None
    finally:
        sys.path[:] = everything


def _require_official() -> None:
    if not _official_installed():
        raise ImportError(
            f"{VARIABLE}=official, but no detectron2 is installed; follow detectron2's installation page "
            f"(https://detectron2.readthedocs.io/tutorials/install.html) or unset {VARIABLE} to use d2lite"
        )
    sys.path[:] = _outside_d2lite()
    _export_path(first=None)


def _expose_d2lite() -> None:
    if not (D2LITE / "detectron2" / "__init__.py").is_file():
        raise ImportError(f"no detectron2: none is installed and {D2LITE} is missing; reinstall eva02_det")
    folder = str(D2LITE)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    _export_path(first=folder)


def _export_path(first: str | None) -> None:
    """Give child processes the same choice even where they unpickle something of detectron2 before importing us."""
    inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and Path(entry) != D2LITE]
    entries = [first, *inherited] if first else inherited
    if entries:
        os.environ["PYTHONPATH"] = os.pathsep.join(entries)
    else:
        os.environ.pop("PYTHONPATH", None)
