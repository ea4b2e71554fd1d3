"""Every published recipe, cut down to nano size, trains on real images from its start and is evaluated by its protocol."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from eva02_det.engine.train import train
from tests.configs.recipes import own_recipes
from tests.projects.nano_recipes import STEPS, nano_recipe

DATA = Path(os.environ.get("DETECTRON2_DATASETS") or Path(__file__).resolve().parents[3] / "shared" / "datasets")
# recipes that differ from another one only in the file they start from would be the same run here
RECIPES = [name for name in own_recipes() if "/eva02_" in name and not name.endswith(("_m38m", "_in21k"))]
FROM_SCRATCH = [name for name in RECIPES if "from_o365" not in name]
FROM_OBJECTS365 = [name for name in RECIPES if "from_o365" in name]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / "coco").is_dir(), reason=f"no data sets at {DATA}; set DETECTRON2_DATASETS"),
]


@pytest.fixture(autouse=True)
def _small_data(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(DATA))
    monkeypatch.setenv("EVA02_DET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def losses(folder: Path) -> list[float]:
    """Total loss of every step of a run."""
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [row["total_loss"] for row in rows if "total_loss" in row]


def expected_tasks(name: str) -> set[str]:
    boxes_and_masks = {"bbox"} if name.startswith("objects365") else {"bbox", "segm"}
    return boxes_and_masks | ({f"ema/{task}" for task in boxes_and_masks} if "from_o365" in name else set())


def assert_trained_and_evaluated(name: str, folder: Path, results: dict) -> None:
    course = losses(folder)
    assert len(course) == STEPS
    assert all(map(math.isfinite, course))
    assert sum(course[-5:]) < sum(course[:5]), course
    assert set(results) == expected_tasks(name)
    for metrics in results.values():
        assert {"AP", "AP50", "AP75"} <= set(metrics)
        assert {"APr", "APc", "APf"} <= set(metrics) or not name.startswith("lvis")
        assert 0 <= metrics["AP"] <= 100


@pytest.mark.parametrize("name", FROM_SCRATCH)
def test_a_recipe_trains_and_is_evaluated(name: str, tmp_path: Path):
    results = train(nano_recipe(name, tmp_path))
    assert_trained_and_evaluated(name, tmp_path, results)


@pytest.fixture(scope="module")
def objects365_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The end of a nano run on Objects365, the start of the recipes that follow it."""
    folder = tmp_path_factory.mktemp("objects365")
    os.environ["DETECTRON2_DATASETS"] = str(DATA)
    train(nano_recipe("objects365/eva02_l_1536", folder))
    return folder / "model_final.pth"


@pytest.mark.parametrize("name", FROM_OBJECTS365)
def test_a_recipe_goes_on_from_objects365(name: str, tmp_path: Path, objects365_checkpoint: Path):
    results = train(nano_recipe(name, tmp_path, init=str(objects365_checkpoint)))
    assert_trained_and_evaluated(name, tmp_path, results)
    assert "ema_state" in torch.load(tmp_path / "model_final.pth", weights_only=True)


def test_box_regression_is_taken_over_from_objects365_while_classes_and_masks_start_anew(
    tmp_path: Path, objects365_checkpoint: Path
):
    config = nano_recipe("coco/eva02_l_1536_from_o365", tmp_path, init=str(objects365_checkpoint), steps=1)
    config.optimizer.lr = config.optimizer.params.base_lr = 0.0
    train(config)
    before = torch.load(objects365_checkpoint, weights_only=True)["model"]
    after = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    shared = [key for key in after if key in before and "cls_score" not in key]
    assert any("bbox_pred" in key for key in shared)
    assert any("mask_head" in key for key in after)
    assert not any("mask_head" in key for key in before)
    for key in shared:
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=0)
