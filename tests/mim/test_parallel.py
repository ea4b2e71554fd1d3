"""Several processes compute what one does, whole or in shards, and go on after a kill."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.engine import launch

from eva02_mim.checkpoints import files_of
from tests.mim import test_resume
from tests.mim.nano_run import draw_pictures, lines, losses
from tests.mim.parallel_runs import SIZES, pretrain

STEPS = 8
RUN = {
    "train__max_steps": STEPS,
    "train__batch": 16,
    "train__log_period": 1,
    "train__clip_grad_norm": 1.0,  # below the norm of the first steps: clipping must see the whole gradient
    "train__average": "global",  # the masks of the nano recipe hide unequal numbers of patches
    "train__checkpoints__period": STEPS // 2,
    "schedule__warmup_epochs": 1,
    "student__embed_dim": 64,
}
BROKEN = (3, 30, 60)
DDP, FSDP = {**RUN, "train__parallel": "ddp"}, {**RUN, "train__parallel": "fsdp"}

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def runs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of runs: one in one process, the others in two."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVA02_MIM_CACHE", str(tmp_path_factory.mktemp("cache")))
        threads = torch.get_num_threads()
        pretrain(images, {folder / "alone": RUN, folder / "alone then sharded": RUN})
        stop_half_way(folder / "alone then sharded")
        in_two = {
            folder / "replicated": DDP,
            folder / "sharded": {**FSDP, "train__accumulate": 2},
            folder / "sharded then alone": FSDP,
            folder / "alone then sharded": FSDP,
            folder / "not killed": test_resume.RUN,
            folder / "with broken images": with_broken_images(folder / "broken"),
        }
        launch(pretrain, 2, dist_url="auto", args=(images, in_two))
        stop_half_way(folder / "sharded then alone")
        again = {**with_broken_images(folder / "broken"), "train__max_steps": 8}
        pretrain(images, {folder / "sharded then alone": RUN, folder / "with broken images": again})
        torch.set_num_threads(threads)
        yield folder


def with_broken_images(folder: Path) -> dict[str, object]:
    """An epoch of 4 steps on pictures of which three are none."""
    if not folder.is_dir():
        draw_pictures(folder)
        for number in BROKEN:
            (folder / f"{number:03d}.png").write_bytes(b"none")
    return {**RUN, "dataloader__train__source__spec": str(folder), "train__max_steps": 4, "train__log_period": 2}


def stop_half_way(run: Path) -> None:
    """As if it had been stopped after the first of its two checkpoints."""
    files = files_of(run)
    assert len(files) == 2
    files[-1].unlink()


def assert_same(run: Path, other: Path) -> None:
    assert list(losses(run)) == list(range(1, STEPS + 1))
    assert losses(run) == pytest.approx(losses(other), abs=2e-6)
    norms = [[line["grad_norm"] for line in lines(folder)] for folder in (run, other)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    one, two = (torch.load(files_of(folder)[-1], weights_only=True) for folder in (run, other))
    torch.testing.assert_close(one["model"], two["model"], rtol=1e-4, atol=1e-5)
    for name, state in two["optimizer"]["state"].items():
        torch.testing.assert_close(one["optimizer"]["state"][name], state, rtol=1e-3, atol=1e-6)


def test_the_run_that_is_compared_with_learns_and_is_clipped(runs: Path):
    assert min(losses(runs / "alone").values()) < -0.3
    assert max(line["grad_norm"] for line in lines(runs / "alone")) > 1


def test_two_processes_are_one_with_twice_the_batch(runs: Path):
    assert_same(runs / "replicated", runs / "alone")


def test_sharded_in_accumulated_parts_is_replicated(runs: Path):
    assert_same(runs / "sharded", runs / "replicated")


@pytest.mark.parametrize("way", ["sharded then alone", "alone then sharded"])
def test_a_run_goes_on_in_another_number_of_processes(way: str, runs: Path):
    assert_same(runs / way, runs / "alone")


def test_a_process_of_two_keeps_half_of_the_weights(runs: Path):
    held, whole = json.loads((runs / "sharded" / SIZES).read_text())
    assert held <= whole / 2 * 1.02
    assert json.loads((runs / "replicated" / SIZES).read_text()) == [whole, whole]


def test_two_processes_go_on_after_kill_9_at_a_random_step(images: Path, runs: Path, tmp_path: Path):
    test_resume.assert_goes_on(images, tmp_path / "killed", runs / "not killed", processes=2)


def test_unreadable_images_of_all_processes_are_counted_and_named_together_and_on_after_a_resume(runs: Path):
    run = runs / "with broken images"
    counts = {int(line["step"]): line["broken_images"] for line in lines(run)}
    assert (counts[4], counts[8]) == (3, 6), "an epoch in two processes, and one more alone"
    account = torch.load(files_of(run)[-2], weights_only=True)["parts"]["data"]["broken"]
    assert (account["seen"], account["count"]) == (64, 3)
    assert {text.partition(": ")[0] for text in account["first"]} == {str(runs / f"broken/{number:03d}.png") for number in BROKEN}
