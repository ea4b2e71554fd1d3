"""Drawn pictures in class folders, and runs of the nano classification recipe on them, in this process or in others."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image, ImageDraw

from eva02_mim.finetune import finetune
from eva02_mim.finetune_build import finetune_parser, load_recipe
from tests.mim.nano_run import ROOT

RECIPE = ROOT / "projects/eva02_mim/configs/classification/nano.py"
TOOL = ROOT / "tools/finetune_classifier.py"
CLASSES = ("blue disc", "green square", "red disc")


def draw_classes(root: Path, *, train: int = 16, val: int = 7, side: int = 72) -> Path:
    """root/{train,val}/<colour and shape>/<number>.png: one shape of the class somewhere on a ground of any grey."""
    draw = np.random.default_rng(0)
    colours = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}
    for part, count in (("train", train), ("val", val)):
        for name in CLASSES:
            colour, shape = name.split()
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                picture = Image.new("RGB", (side, side), (int(draw.integers(0, 256)),) * 3)
                left, top, size = (
                    draw.integers(0, side // 3),
                    draw.integers(0, side // 3),
                    draw.integers(side // 2, side * 2 // 3),
                )
                box = [int(left), int(top), int(left + size), int(top + size)]
                pen = ImageDraw.Draw(picture)
                (pen.ellipse if shape == "disc" else pen.rectangle)(box, fill=colours[colour])
                picture.save(folder / f"{number:03d}.png")
    return root


def arguments(data: Path, output: Path, *options: str, **changes: Any) -> list[str]:
    """Of the tool with the nano recipe; `changes` with __ for the dots."""
    changes = {"train__device": "cpu", **changes}
    named = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in changes.items()]
    return ["--config-file", str(RECIPE), "--data", str(data), *options, f"train.output_dir={output}", *named]


def options_of(data: Path, output: Path, *options: str, **changes: Any) -> argparse.Namespace:
    return finetune_parser().parse_intermixed_args(arguments(data, output, *options, **changes))


def nano_config(data: Path, output: Path, *options: str, **changes: Any) -> DictConfig:
    return load_recipe(options_of(data, output, *options, **changes))


def finetune_all(data: Path, runs: dict[Path, dict[str, Any]]) -> None:
    """Output folder -> changes of the nano recipe, one run after the other; a folder with a checkpoint is resumed."""
    torch.set_num_threads(1)
    for output, changes in runs.items():
        finetune(nano_config(data, output, **changes), resume=True)


def record(output: Path) -> list[dict[str, Any]]:
    return json.loads((output / "evaluations.json").read_text())
