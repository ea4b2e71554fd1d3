"""A few photographs of the test data, small enough for fast tests."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(os.environ.get("DETECTRON2_DATASETS") or Path(__file__).resolve().parents[3] / "shared" / "datasets") / "coco"


@cache
def files() -> tuple[Path, ...]:
    """All photographs of train2017 and val2017; a test that asks for them is skipped where there are none."""
    found = [path for split in ("train2017", "val2017") for path in sorted((ROOT / split).glob("*.jpg"))]
    if not found:
        pytest.skip("needs the photographs below DETECTRON2_DATASETS")
    return tuple(found)


@cache
def photograph(number: int) -> NDArray[np.uint8]:
    """[H, W, 3]."""
    with Image.open(files()[number]) as image:
        return np.asarray(image.convert("RGB"))
