"""What a training does when a step is not finite, an image is damaged or a loader worker dies."""

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import launch
from detectron2.utils.events import EventStorage
from torch import nn

from eva02_det.engine.faults import FAULTS_FILE, Faults, dead_workers_named
from eva02_det.engine.train import train
from eva02_det.engine.trainer import Trainer
from eva02_det.utils.errors import UserError
from tests.engine import faulty
from tests.engine.faulty import Picky, picture
from tests.engine.interrupted import STEPS, config_of, disturb, losses
from tests.engine.small_run import forget, write_set

ROOT = Path(__file__).resolve().parents[2]


def steps(model: nn.Module, batches: list, *, faults: Faults | None = None, **options: object) -> Trainer:
    trainer = Trainer(model, batches, torch.optim.AdamW(model.parameters(), lr=0.1), faults=faults, **options)
    trainer.max_iter = count = len(batches) // trainer.accumulate
    with EventStorage(0) as trainer.storage:
        for trainer.iter in range(count):
            trainer.run_step()
            trainer.storage.step()
    return trainer


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_set(tmp_path, "train", 7)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    forget("small_train")
    return tmp_path


@pytest.mark.parametrize("fault", ["loss", "gradient", "proposals"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_is_not_finite_is_left_out_and_named(tmp_path: Path, fault: str, accumulate: int):
    model, other = Picky(), Picky()
    good = [[picture(number)] for number in range(4)]
    bad = [[picture(9, fault=fault)]] + [[picture(8)]] * (accumulate - 1)
    faults = Faults(1, tmp_path)
    trainer = steps(model, good[:accumulate] + bad + good[accumulate : 2 * accumulate], faults=faults, accumulate=accumulate)
    steps(other, good[: 2 * accumulate], accumulate=accumulate)
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert (faults.skipped, faults.in_a_row) == (1, 0)
    assert trainer.losses is not None
    (line,) = [json.loads(text) for text in (tmp_path / FAULTS_FILE).read_text().splitlines()]
    assert line["iteration"] == 1
    assert "9.jpg" in line["ranks"][0]["images"]


def test_more_faults_in_a_row_than_allowed_end_the_run_with_the_images_in_a_file(tmp_path: Path):
    model = Picky()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=r"step 1 was not finite, nor the 1 before it.*loss is nan.*3\.jpg") as raised:
        steps(model, [[picture(2, fault="loss")], [picture(3, fault="loss")], [picture(4)]], faults=Faults(1, tmp_path))
    assert str(tmp_path / FAULTS_FILE) in str(raised.value)
    assert len((tmp_path / FAULTS_FILE).read_text().splitlines()) == 2
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_an_overflow_that_the_loss_scale_mends_is_no_fault():
    model = Picky()
    trainer = steps(model, [[picture(1)], [picture(2)]], scale_loss=True)
    assert trainer.faults.skipped == 0


@pytest.mark.distributed
def test_two_ranks_leave_out_the_same_steps_and_end_together(tmp_path: Path):
    launch(faulty.as_two_ranks, 2, dist_url="auto", args=(str(tmp_path),))
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    assert first["skipped"] == second["skipped"] == len(faulty.FAULTS)
    assert first["iterations"] == second["iterations"]
    assert first["said"] == second["said"]
    assert "disc 7 is gone" in first["said"]
    lines = [json.loads(text) for text in (tmp_path / FAULTS_FILE).read_text().splitlines()]
    guilty = [[bool(one["reason"]) for one in line["ranks"]] for line in lines]
    assert guilty == [[False, True], [False, False], [False, True]], "the gradient of all is nobody's"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_replaced_by_the_next_and_counted(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
):
    (data / "small/train/3.jpg").write_bytes((data / "small/train/3.jpg").read_bytes()[:300])
    with caplog.at_level("INFO"):
        train(config_of(tmp_path / "run", workers=workers))
    assert "3.jpg cannot be decoded" in caplog.text
    times = 2 * STEPS // 7  # passes that are over
    assert any(f"in this training {count} of {2 * STEPS} images were unreadable" in caplog.text for count in (times, times + 1))
    (data / "small/train/3.jpg").write_bytes((data / "small/train/4.jpg").read_bytes())
    content = json.loads((data / "small/annotations/instances_train.json").read_text())
    third, fourth = content["annotations"][2], content["annotations"][3]
    third["category_id"] = fourth["category_id"]
    (data / "small/annotations/instances_train.json").write_text(json.dumps(content))
    train(config_of(tmp_path / "mended"))
    assert losses(tmp_path / "run") == losses(tmp_path / "mended"), "the next image stood in for the damaged one"


def test_more_damaged_images_than_allowed_end_the_run(data: Path, tmp_path: Path):
    (data / "small/train/3.jpg").write_bytes(b"")
    config = config_of(tmp_path / "run")
    config.dataloader.train.max_broken = 0.0
    with pytest.raises(UserError, match=r"1 of \d+ images were unreadable, first .*3\.jpg.*max_broken=0"):
        train(config)


def test_a_killed_loader_worker_is_named_with_its_signal(data: Path, tmp_path: Path):
    (tmp_path / "count").write_text("5")
    config = config_of(tmp_path / "run", workers=2)
    disturb(config.dataloader.train.mapper, tmp_path / "count", signal.SIGKILL, here=True)
    with pytest.raises(UserError, match=r"loader worker [01] of process 0 \(pid \d+\) was ended by SIGKILL \(9\)"):
        train(config)


def test_a_worker_that_is_killed_while_its_batch_is_fetched_is_named_too():
    worker = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    loader = SimpleNamespace(draws=SimpleNamespace(pids=torch.tensor([0, worker.pid])), worker_of={worker.pid: 1}.get)
    with pytest.raises(EOFError), dead_workers_named(loader, UserError):
        raise EOFError  # for another reason: the worker lives
    worker.kill()
    said = rf"loader worker 1 of process 0 \(pid {worker.pid}\) was ended by SIGKILL \(9\)"
    with pytest.raises(UserError, match=said), dead_workers_named(loader, UserError):
        raise EOFError
    worker.communicate()


@pytest.mark.distributed
def test_a_killed_loader_worker_of_one_rank_ends_all_of_them(data: Path, tmp_path: Path):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", faulty.__name__, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode not in (0, None), done.stdout[-2000:]
    said = [line for line in done.stderr.splitlines() if "loader worker" in line]
    assert said, done.stderr[-3000:]
    assert "of process 1 (pid" in said[0]
    assert "SIGKILL (9)" in said[0]
