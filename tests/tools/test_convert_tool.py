"""The conversion tool as a user calls it, on every kind of file that it takes."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

from eva02_det.checkpoint.io import read_file
from eva02_det.checkpoint.load import load_weights
from eva02_det.layers.patch_embed import Positions
from tests.checkpoint.small import small_backbone, small_detector, snapshot

ROOT = Path(__file__).resolve().parents[2]


def tool(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
    command = [sys.executable, str(ROOT / "tools" / "convert_checkpoint.py"), *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=200)


def test_a_deepspeed_file_with_options_in_it_becomes_a_p14to16_file_that_loads(tmp_path: Path) -> None:
    source = small_backbone(patch_size=14, positions=Positions(16))
    weights = {**snapshot(source), "mask_token": torch.zeros(1, 1, 32), "cls_token": torch.ones(1, 1, 32)}
    torch.save({"module": weights, "args": argparse.Namespace(lr=1e-3)}, tmp_path / "p14.pt")
    done = tool(tmp_path, "p14.pt", "p14to16.pt")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"p14.pt holds an EVA-02 backbone, {len(weights)} tensors",
        "patch_embed.proj.weight: [32, 3, 14, 14] -> [32, 3, 16, 16], bicubic",
        "pos_embed: [1, 257, 32] -> [1, 197, 32], bicubic",
        "wrote p14to16.pt",
    ]
    converted = read_file(tmp_path / "p14to16.pt")
    assert list(converted) == ["model"]
    assert converted["model"].keys() == weights.keys()
    for key, value in converted["model"].items():
        if key not in {"patch_embed.proj.weight", "pos_embed"}:
            assert torch.equal(value, weights[key]), key
    load_weights(small_detector(), tmp_path / "p14to16.pt")


def test_what_it_refuses_is_one_sentence_and_writes_nothing(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "extra": Path("x")}, tmp_path / "x.pt")
    done = tool(tmp_path, "x.pt", "out.pt")
    assert done.returncode == 2
    assert done.stderr.startswith("error: checkpoint x.pt holds objects other than tensors (pathlib")
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]
