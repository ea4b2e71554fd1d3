"""A run that was killed goes on as if it had not been."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from eva02_det.utils.randomness import random_state, set_random_state
from eva02_mim.checkpoints import files_of
from eva02_mim.train import train
from tests.mim.nano_run import ToolRun, draw_pictures, losses, nano_config

STEPS = 40
# small batches and drop path: the random state, the place in the data and the moments must all be right
RUN = {
    "train__max_steps": STEPS,
    "train__batch": 12,  # 64 images are 5 steps: the run crosses epochs
    "train__log_period": 1,
    "train__checkpoints__period": 3,
    "train__checkpoints__keep": 2,
    "schedule__warmup_epochs": 1,
    "student__embed_dim": 64,
    "student__drop_path_rate": 0.3,
}


def assert_goes_on(images: Path, killed: Path, whole: Path, *, processes: int) -> None:
    """Kill a run at a random step, resume it, and compare it with one that was let go on."""
    step = random.SystemRandom().randint(4, STEPS - 15)
    reported = ToolRun(images, killed, processes=processes, **RUN).kill_at(step)
    assert reported < STEPS, f"the run was over before it could be killed at step {step}"
    ToolRun(images, killed, "--resume", processes=processes, **RUN).finish()
    assert list(losses(whole)) == list(range(1, STEPS + 1))
    assert losses(killed) == pytest.approx(losses(whole), abs=1e-6), f"killed after step {reported}"
    one, other = (torch.load(files_of(run)[-1], weights_only=True)["model"] for run in (whole, killed))
    torch.testing.assert_close(other, one, rtol=0, atol=1e-6)
    assert not list(killed.glob(".checkpoint*")), "a file that was being written when the run was killed"


@pytest.mark.slow
def test_after_kill_9_at_a_random_step_the_losses_are_those_of_the_run_that_was_not_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EVA02_MIM_CACHE", str(tmp_path / "cache"))
    images = draw_pictures(tmp_path / "images")
    train(nano_config(images, tmp_path / "whole", **RUN))
    assert_goes_on(images, tmp_path / "killed", tmp_path / "whole", processes=1)


def test_a_process_draws_the_same_again_from_a_saved_random_state(tmp_path: Path):
    def draws() -> tuple[float, float, float, float]:
        return random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))

    np.random.randn()  # leaves a second normal number behind
    torch.save(random_state(), tmp_path / "state.pt")
    first = draws()
    draws()
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draws() == first
