"""Pre-training runs of the nano recipe on a few drawn pictures, in this process or in others."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from eva02_mim.config import load_recipe
from eva02_mim.teacher import SeededTeacher

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


class Poisoned(SeededTeacher):
    """Gives NaN for images that are all white."""

    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        return torch.where((images == 255).all(dim=(1, 2, 3)).view(-1, 1, 1), torch.nan, features)


class ToolRun:
    """tools/pretrain.py on the nano recipe, in one process or in several as torchrun starts them."""

    def __init__(self, images: Path, output: Path, *options: str, processes: int = 1, **changes: Any) -> None:
        self.output = output
        self.start(TOOL, "--config-file", str(RECIPE), *options, *overrides(images, output, **changes), processes=processes)

    def start(self, tool: Path, *arguments: str, processes: int) -> None:
        """Begin; `finish` or `kill_at` end it."""
        command = [sys.executable, str(tool), *arguments]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "EVA02_MIM_CACHE": str(self.output.parent / "cache")}
        port = _free_port()
        ranks = [{}] if processes == 1 else [_as_torchrun(rank, processes, port) for rank in range(processes)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.processes = [subprocess.Popen(command, cwd=ROOT, env={**env, **rank}, **pipes) for rank in ranks]

    def finish(self) -> None:
        """Wait; all processes must end well."""
        for process in self.processes:
            output, _ = process.communicate(timeout=600)
            assert process.returncode == 0, output[-3000:]

    def kill_at(self, step: int) -> int:
        """SIGKILL to every process once `step` steps are reported; how many were by then."""
        while self.reported() < step:
            for process in self.processes:
                assert process.poll() is None, process.communicate()[0][-3000:]
            time.sleep(0.005)
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.communicate()
            assert process.returncode == -signal.SIGKILL
        return self.reported()

    def reported(self) -> int:
        """Whole lines of metrics.jsonl."""
        file = self.output / "metrics.jsonl"
        return file.read_text().count("\n") if file.is_file() else 0


def _as_torchrun(rank: int, world: int, port: int) -> dict[str, str]:
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in variables.items()}}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
