"""Scoring takes longer than a rank may wait for another, and no rank does: real processes, a real scoring, slowed down."""

import json
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from detectron2.engine import launch
from detectron2.utils import comm

from eva02_det.engine.evaluate import results_file
from eva02_det.engine.train import evaluate, train
from tests.engine.small_run import slow_down_scoring, small_config, write_set

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

PATIENCE = timedelta(seconds=10)  # of a process group
SCORING_S = 14.0


def work(run: Path, checkpoint: str) -> None:
    """One rank: trains two steps with an evaluation after each, or evaluates a checkpoint; notes when it was done."""
    torch.set_num_threads(1)
    rank = comm.get_rank()
    config = small_config(run, 2)
    config.train.eval_period = 1
    if checkpoint:
        config.train.init_checkpoint = checkpoint
        evaluate(config)
    else:
        train(config)
    (run / f"left_{rank}").write_text(str(time.time()))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_set(tmp_path, "train")
    write_set(tmp_path, "val", 3)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.syspath_prepend(slow_down_scoring(tmp_path / "slow", SCORING_S))
    return tmp_path / "run"


def test_no_rank_waits_for_a_scoring_that_outlasts_the_process_group(run: Path):
    launch(work, 2, dist_url="auto", args=(run, ""), timeout=PATIENCE)
    left = [float((run / f"left_{rank}").read_text()) for rank in range(2)]
    assert left[0] - left[1] > PATIENCE.total_seconds(), "the other rank left, the main one waited for the metrics alone"
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "total_loss" in line] == [0, 1]
    assert [line["evaluated_iteration"] for line in lines if "bbox/AP" in line][-1] == 2
    assert set(json.loads(results_file(run).read_text())) == {"bbox", "segm"}

    seen = json.loads((run / "inference" / "evaluation.json").read_text())
    assert seen["images"] == 3, "the shards of both ranks were scored"
    launch(work, 2, dist_url="auto", args=(run, str(run / "model_final.pth")), timeout=PATIENCE)
    assert json.loads((run / "inference" / "evaluation.json").read_text())["metrics"] == seen["metrics"]
