"""What is compared and refused before an evaluation begins."""

from pathlib import Path

import pytest
from detectron2.config import LazyCall as L

from eva02_det.engine.evaluate import Evaluation, with_nan, without_nan
from eva02_det.modeling.mask_budget import MaskBudget
from eva02_det.utils.errors import UserError
from tests.engine.small_run import forget, small_config, write_set


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_set(tmp_path, "val", 1)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    forget("small_val")
    return tmp_path


@pytest.mark.parametrize(
    ("benchmark", "counted", "budget", "enough"),
    [
        ("coco", 100, {"per_class": 100}, True),
        ("coco", 100, {"per_class": 99}, False),
        ("coco", 100, {"per_image": 3000}, False),
        ("lvis", 300, {"per_image": 300}, True),
        ("lvis", 1000, {"per_image": 300}, False),
        ("lvis", 300, {"per_class": 300}, True),
    ],
)
def test_a_budget_of_masks_below_what_is_counted_is_refused(
    tmp_path: Path, benchmark: str, counted: int, budget: dict[str, int], enough: bool
) -> None:
    config = small_config(tmp_path / "run", data="lvis_v1" if benchmark == "lvis" else "small")
    config.dataloader.test.dataset.names = "small_val"
    config.dataloader.evaluator.max_detections = counted if benchmark == "lvis" else [1, 10, counted]
    config.model.roi_heads.mask_budget = L(MaskBudget)(**budget)
    if enough:
        Evaluation(config).open()
        return
    with pytest.raises(UserError, match=rf"counts {counted} .*\.mask_budget has .*{next(iter(budget))}="):
        Evaluation(config).open()


def test_a_config_without_evaluator_cannot_be_evaluated(tmp_path: Path) -> None:
    config = small_config(tmp_path / "run")
    config.dataloader.evaluator = None
    with pytest.raises(UserError, match=r"dataloader\.evaluator"):
        Evaluation(config)


def test_undefined_metrics_survive_a_file() -> None:
    metrics = {"bbox": {"AP": 12.5, "APs": float("nan")}}
    assert without_nan(metrics) == {"bbox": {"AP": 12.5, "APs": None}}
    assert without_nan(with_nan(without_nan(metrics))) == without_nan(metrics)
