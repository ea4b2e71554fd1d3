"""Pre-training runs of the nano recipe on a few drawn pictures, in this process or in others."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from PIL import Image

from eva02_mim.config import load_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "projects/eva02_mim/configs/nano.py"
TOOL = ROOT / "tools/pretrain.py"


def draw_pictures(folder: Path, count: int = 64, side: int = 64) -> Path:
    """Pictures of a few coloured rectangles, each another."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for number in range(count):
        picture = np.empty((side, side, 3), np.uint8)
        picture[:] = draw.integers(0, 256, 3)
        for _ in range(4):
            (top, bottom), (left, right) = (sorted(draw.integers(0, side + 1, 2)) for _ in range(2))
            picture[top:bottom, left:right] = draw.integers(0, 256, 3)
        Image.fromarray(picture).save(folder / f"{number:03d}.png")
    return folder


def overrides(images: Path, output: Path, **changes: Any) -> list[str]:
    """Of the nano recipe; `changes` with __ for the dots."""
    changes = {"train__device": "cpu", **changes}
    named = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in changes.items()]
    return [f"dataloader.train.source.spec={images}", f"train.output_dir={output}", *named]


def nano_config(images: Path, output: Path, **changes: Any) -> DictConfig:
    return load_recipe(RECIPE, overrides(images, output, **changes))


def lines(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def losses(output: Path) -> dict[int, float]:
    return {int(line["step"]): line["loss"] for line in lines(output) if "loss" in line}


def start(images: Path, output: Path, *options: str, **changes: Any) -> subprocess.Popen[str]:
    """tools/pretrain.py on the nano recipe, in its own process group."""
    command = [sys.executable, str(TOOL), "--config-file", str(RECIPE), *options, *overrides(images, output, **changes)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "EVA02_MIM_CACHE": str(output.parent / "cache")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True, **pipes)
