"""Objects365 first, COCO or LVIS afterwards (section 3.3.1 of the paper): what is taken over, what starts anew; both run."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from configs.common import protocols
from configs.common.models import federated_loss
from eva02_det.engine.evaluate import results_file
from eva02_det.engine.train import evaluate, train
from tests.engine.small_run import small_config

DATA = Path(os.environ.get("DETECTRON2_DATASETS") or Path(__file__).resolve().parents[3] / "shared" / "datasets")
CLASSES = 80  # of the excerpts, Objects365's and LVIS's among them
PIXELS = 96
NEW = (r"\.cls_score\.", r"\.mask_head\.")

pytestmark = pytest.mark.skipif(not (DATA / "o365").is_dir(), reason=f"no excerpts of the data sets at {DATA}")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chains")


@pytest.fixture(autouse=True)
def data_sets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(DATA))
    monkeypatch.setenv("EVA02_DET_CACHE", str(home / "cache"))


@pytest.fixture(scope="module")
def objects365(home: Path) -> Path:
    """The checkpoint of a box-only detector after a few steps on Objects365."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DETECTRON2_DATASETS", str(DATA))
        config = config_of(home / "objects365", "objects365", masks=False)
        config.dataloader.test.dataset.first = 1
        results = train(config)
    assert set(results) == {"bbox"}
    return home / "objects365" / "model_final.pth"


def config_of(run: Path, data: str, *, masks: bool = True, init: str = "", **model: Any) -> DictConfig:
    loaders = {"masks": masks, "repeat_threshold": 0.001 if data == "lvis_v1" else None}
    settings = {"init_checkpoint": init, "new_weights": NEW, "ema_decay": 0.9 if init else None}
    return small_config(
        run, 3, data=data, num_classes=CLASSES, pixels=PIXELS, masks=masks, loaders=loaders, train=settings, **model
    )


def weights(file: Path) -> dict[str, Tensor]:
    return torch.load(file, weights_only=True)["model"]


def assert_taken_over(config: DictConfig, start: Path) -> None:
    """One step at a learning rate of zero shows what the run started from."""
    config.optimizer.params.base_lr = config.optimizer.lr = 0.0
    config.dataloader.evaluator, config.train.max_iter = None, 1
    config.train.output_dir += "_start"
    train(config)
    before, after = weights(start), weights(Path(config.train.output_dir) / "model_final.pth")
    anew = {name for name in after if name not in before or not torch.equal(before[name], after[name])}
    expected = {name for name in after if ".cls_score." in name or ".mask_head." in name or "fed_loss" in name}
    zero = {name for name in expected if name in before and not before[name].any()}  # biases that have not moved yet
    assert expected - zero <= anew <= expected
    assert any(".bbox_pred." in name for name in after), "regression is class-agnostic and is taken over"


@pytest.mark.parametrize("data", ["coco_2017", "lvis_v1"])
def test_a_detector_of_objects365_goes_on_as_one_of_coco_or_lvis(data: str, home: Path, objects365: Path) -> None:
    def config(name: str) -> DictConfig:
        loss = {"class_loss": federated_loss("lvis_v1_train", num_classes=20)} if data == "lvis_v1" else {}
        made = config_of(home / name, data, init=str(objects365), **loss)
        protocol = "lvis_system_o365" if data == "lvis_v1" else "coco_system"
        made.protocol = protocols.tested_as(protocol, model=made.model, dataloader=made.dataloader, train=made.train)
        made.dataloader.test.dataset.first = 1
        return made

    assert_taken_over(config(data), objects365)
    results = train(config(data))
    assert set(results) == {"bbox", "segm", "ema/bbox", "ema/segm"}
    metrics = [json.loads(line) for line in (home / data / "metrics.json").read_text().splitlines()]
    assert all({"loss_mask", "loss_cls_stage2"} <= set(line) for line in metrics if "total_loss" in line)

    again = config(data)
    again.train.init_checkpoint = str(home / data / "model_final.pth")
    again.train.output_dir += "_eval"
    assert set(evaluate(again)) == {"ema/bbox", "ema/segm"}, "the protocol of this recipe tests the average"
    written = json.loads(results_file(again.train.output_dir).read_text())
    assert written["ema/bbox"] == json.loads(json.dumps(results["ema/bbox"]).replace("NaN", "null"))
