"""Several processes compute what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.engine import launch

from tests.engine.parallel_steps import OBJECTS, detector, take_steps

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3
# weights are of order 0.1; sums are taken in another order
TOLERANCE = {"rtol": 1e-4, "atol": 2e-6}

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """One process, two images a step."""
    file = tmp_path_factory.mktemp("alone") / "one.pth"
    threads = torch.get_num_threads()
    take_steps(str(file), STEPS)
    torch.set_num_threads(threads)
    result = torch.load(file)
    assert result["foreground"] == OBJECTS, "the comparison needs as many foreground samples in every image"
    return result


def assert_same_weights(file: Path, alone: dict) -> None:
    start = detector().state_dict()
    weights = torch.load(file)["weights"]
    moved = max((weights[key] - start[key]).abs().max().item() for key in weights)
    assert moved > 1e-3, "training must have changed the weights"
    for key, value in alone["weights"].items():
        torch.testing.assert_close(weights[key], value, **TOLERANCE, msg=lambda text, key=key: f"{key}: {text}")


def test_two_gloo_processes_give_the_weights_of_one_process_with_twice_the_batch(tmp_path: Path, alone: dict):
    launch(take_steps, 2, dist_url="auto", args=(str(tmp_path / "two.pth"), STEPS))
    assert_same_weights(tmp_path / "two.pth", alone)


def test_two_processes_under_torchrun_give_the_same_weights(tmp_path: Path, alone: dict):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.engine.parallel_steps", str(tmp_path / "run.pth"), str(STEPS)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_weights(tmp_path / "run.pth", alone)


def test_accumulating_two_batches_gives_the_weights_of_one_of_twice_the_size(tmp_path: Path, alone: dict):
    threads = torch.get_num_threads()
    take_steps(str(tmp_path / "acc.pth"), STEPS, accumulate=2)
    torch.set_num_threads(threads)
    assert_same_weights(tmp_path / "acc.pth", alone)
