"""Where data sets lie, and where what is derived from them is kept."""

import os
from collections.abc import Iterable
from pathlib import Path


def datasets_root() -> Path:
    """The folder that holds all data sets: DETECTRON2_DATASETS, else `datasets` in the working directory."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()


def cache_folder() -> Path:
    """Where derived files go: EVA02_DET_CACHE, else `eva02_det` below XDG_CACHE_HOME or `~/.cache`."""
    if chosen := os.environ.get("EVA02_DET_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "eva02_det"


def first_present(paths: Iterable[Path]) -> Path:
    """The first of the paths that exists, else the first of them."""
    candidates = list(paths)
    return next((path for path in candidates if path.exists()), candidates[0])
