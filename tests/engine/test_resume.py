"""A training that is stopped or killed anywhere, and resumed, computes what it would have computed without, to the last bit."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.engine import launch
from omegaconf import DictConfig

from eva02_det.engine.train import train
from eva02_det.launch.preemption import Stopped
from eva02_det.utils.errors import UserError
from tests.engine import interrupted
from tests.engine.interrupted import STEPS, assert_same, config_of, losses, result_of, train_with_stops
from tests.engine.small_run import forget, small_config, write_set

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures, so that a pass ends within a batch."""
    folder = tmp_path_factory.mktemp("resume")
    write_set(folder, "train", 7)
    write_set(folder, "val", 2)
    return folder


@pytest.fixture(autouse=True)
def data(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    forget("small_train", "small_val")


@pytest.fixture(scope="module")
def whole(root: Path) -> dict:
    """The result of a training that nobody stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        forget("small_train", "small_val")
        train(config_of(root / "whole"))
    return result_of(root / "whole")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_told_to_stop_twice_at_random_steps_ends_as_one_that_was_not(whole: dict, tmp_path: Path, workers: int):
    places = [random.randrange(2 * STEPS // 3), random.randrange(STEPS // 2)]
    left = train_with_stops(tmp_path / "run", places, workers=workers)
    assert left, f"no stop took place at {places}"
    assert_same(result_of(tmp_path / "run"), whole)


def test_a_killed_run_ends_as_one_that_was_not(whole: dict, root: Path, tmp_path: Path):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", interrupted.__name__, str(tmp_path), str(random.randrange(4, 2 * STEPS - 1))]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr[-2000:]
    train(config_of(tmp_path / "killed", workers=0, period=2), resume=True)
    assert_same(result_of(tmp_path / "killed"), whole)


def test_wide_and_tall_images_kept_apart_are_resumed_too(tmp_path: Path):
    train(config_of(tmp_path / "whole", grouped=True))
    assert train_with_stops(tmp_path / "parts", [5], workers=2, grouped=True)
    assert_same(result_of(tmp_path / "parts"), result_of(tmp_path / "whole"))


@pytest.mark.distributed
def test_two_processes_of_which_one_is_told_stop_together_and_go_on_to_the_same_end(tmp_path: Path):
    launch(interrupted.in_two_processes, 2, dist_url="auto", args=(str(tmp_path), 1))
    assert json.loads((tmp_path / "stops.json").read_text())
    assert_same(result_of(tmp_path / "parts"), result_of(tmp_path / "whole"))


def test_an_evaluation_that_was_stopped_is_made_later_and_changes_nothing_of_the_training(whole: dict, tmp_path: Path):
    run, file = tmp_path / "run", tmp_path / "count"

    def evaluated() -> DictConfig:
        config = config_of(run)
        config.dataloader.evaluator = small_config(run, STEPS).dataloader.evaluator
        config.train.eval_period = 4
        interrupted.disturb(config.dataloader.test.mapper, file, signal.SIGUSR2)
        return config

    file.write_text("0")  # at the first test image
    with pytest.raises(Stopped):
        train(evaluated())
    interrupted.forget_the_notice()
    assert [path.name for path in run.glob("model_*")] == ["model_0000003.pth"]
    assert not list(run.rglob("results.json"))
    train(evaluated(), resume=True)
    assert (run / "inference" / "model_0000003" / "results.json").is_file()
    assert (run / "inference" / "results.json").is_file()
    assert_same(result_of(run), whole)


def test_other_training_data_are_refused(root: Path, tmp_path: Path):
    assert train_with_stops(tmp_path / "run", [3])
    config = config_of(tmp_path / "run")
    config.dataloader.train.dataset.first = 5
    with pytest.raises(UserError, match="7 images then, 5 now"):
        train(config, resume=True)


def test_a_checkpoint_says_the_place_in_the_data_and_the_random_numbers_of_each_rank(whole: dict, root: Path):
    ranks = torch.load(root / "whole" / "model_final.pth", weights_only=True)["trainer"]["ranks"]
    assert [one["data"]["images"] for one in ranks] == [2 * STEPS]
    assert ranks[0]["random"].keys() >= {"python", "numpy", "torch", "cuda"}
    assert [line["iteration"] for line in losses(root / "whole")] == list(range(STEPS))
