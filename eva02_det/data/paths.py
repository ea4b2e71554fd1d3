"""Where data sets lie."""

import os
from pathlib import Path


def datasets_root() -> Path:
    """The folder that holds all data sets: DETECTRON2_DATASETS, else `datasets` in the working directory."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()
