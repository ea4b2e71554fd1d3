"""A run in one process: averaged weights beside the raw ones, scoring beside the training, and what is refused early."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from eva02_det.engine.evaluate import results_file
from eva02_det.engine.train import evaluate, train
from eva02_det.utils.errors import UserError
from tests.engine.small_run import forget, slow_down_scoring, small_config, write_annotations, write_set


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_set(tmp_path, "train")
    write_set(tmp_path, "val", 2)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    forget("small_train", "small_val")
    return tmp_path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def averaging(run: Path, steps: int, **changes: Any) -> DictConfig:
    return small_config(run, steps, train={"ema_decay": 0.5}, **changes)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]


def numbers(results: dict[str, Any]) -> dict[str, Any]:
    """Metrics that can be compared: NaN is not equal to itself."""
    return json.loads(json.dumps(results).replace("NaN", "null"))


def test_raw_and_averaged_weights_are_evaluated_in_one_evaluation_and_again_from_the_checkpoint(data: Path, run: Path):
    results = train(averaging(run, 3))
    assert set(results) == {"bbox", "segm", "ema/bbox", "ema/segm"}
    assert set(json.loads(results_file(run).read_text())) == set(results)
    assert set(torch.load(run / "model_final.pth", weights_only=True)) >= {"model", "ema_state", "trainer", "iteration"}

    raw_detections = (run / "inference" / "coco_instances_results.json").read_text()
    averaged_detections = (run / "inference" / "ema" / "coco_instances_results.json").read_text()
    assert raw_detections != averaged_detections
    both = {"": raw_detections, "ema": averaged_detections}
    for which, files in (("raw", {"": raw_detections}), ("ema", {"": averaged_detections}), ("both", both)):
        config = averaging(run / which, 3)
        config.train.init_checkpoint, config.train.ema.eval_only = str(run / "model_final.pth"), which
        again = evaluate(config)
        assert numbers(again) == {task: value for task, value in numbers(results).items() if task in again}
        assert len(again) == 2 * len(files)
        for folder, content in files.items():
            assert (run / which / "inference" / folder / "coco_instances_results.json").read_text() == content


def test_a_run_that_was_broken_off_and_resumed_has_the_average_of_one_that_was_not(data: Path, run: Path):
    def last(folder: Path) -> dict[str, torch.Tensor]:
        return torch.load(folder / "model_final.pth", weights_only=True)["ema_state"]

    whole, parts = averaging(run / "whole", 3), averaging(run / "parts", 3)
    for config in (whole, parts):
        config.train.checkpointer.period, config.dataloader.evaluator = 1, None
    train(whole)
    train(parts)
    (run / "parts" / "last_checkpoint").write_text("model_0000000.pth")
    early = run / "parts" / "model_0000000.pth"
    first = torch.load(early, weights_only=True)
    torch.save({**first, "ema_state": {name: value + 1 for name, value in first["ema_state"].items()}}, early)
    train(parts, resume=True)
    # two more steps at 0.5 leave a quarter of what the file held; the weights went another way, as the draws are not resumed
    weights = torch.load(run / "parts" / "model_0000001.pth", weights_only=True)["model"]
    final = torch.load(run / "parts" / "model_final.pth", weights_only=True)["model"]
    for name, value in last(run / "parts").items():
        expected = 0.25 * (first["ema_state"][name] + 1) + 0.25 * weights[name] + 0.5 * final[name]
        torch.testing.assert_close(value, expected)
    assert set(last(run / "whole")) == set(last(run / "parts"))


def test_averaging_starts_from_the_weights_that_were_loaded(data: Path, run: Path):
    first = small_config(run / "first", 1)
    first.dataloader.evaluator = None
    train(first)
    config = averaging(run / "second", 1)
    config.dataloader.evaluator, config.train.init_checkpoint = None, str(run / "first" / "model_final.pth")
    train(config)
    loaded = torch.load(run / "first" / "model_final.pth", weights_only=True)["model"]
    content = torch.load(run / "second" / "model_final.pth", weights_only=True)
    for name, value in content["ema_state"].items():
        torch.testing.assert_close(value, 0.5 * loaded[name] + 0.5 * content["model"][name])


def test_a_missing_average_is_said_before_data_are_opened(run: Path, tmp_path: Path):
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "plain.pth")
    config = averaging(run, 1, data="nowhere")
    config.train.init_checkpoint, config.train.ema.eval_only = str(tmp_path / "plain.pth"), "ema"
    with pytest.raises(UserError, match="averaged weights"):
        evaluate(config)


def test_a_backbone_is_not_evaluated_as_a_detector(data: Path, run: Path):
    config = small_config(run, 1)
    config.dataloader.evaluator = None
    train(config)
    weights = torch.load(run / "model_final.pth", weights_only=True)["model"]
    prefix = "backbone.net."
    torch.save({key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}, run / "net.pth")
    config = small_config(run, 1)
    config.train.init_checkpoint = str(run / "net.pth")
    with pytest.raises(UserError, match="no whole detector"):
        evaluate(config)


def test_missing_test_images_are_found_before_training(data: Path, run: Path):
    (data / "small" / "val" / "2.jpg").unlink()
    with pytest.raises(UserError, match=r"2\.jpg"):
        train(small_config(run, 1))
    assert not (run / "model_final.pth").exists()


@pytest.mark.parametrize("key", ["evaluate", "eval_only"])
def test_weights_that_do_not_exist_cannot_be_asked_for(run: Path, key: str):
    config = averaging(run, 1)
    config.train.ema[key] = "mean"
    with pytest.raises(UserError, match="raw, ema, both"):
        train(config)


def test_training_goes_on_while_predictions_are_scored(data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(slow_down_scoring(tmp_path / "slow", 3))
    config = small_config(run, 2)
    config.train.eval_period = 1
    results = train(config)
    written = lines(run)
    steps = [line["iteration"] for line in written if "total_loss" in line]
    evaluated = [line for line in written if "bbox/AP" in line]
    assert steps == [0, 1]
    assert [line["evaluated_iteration"] for line in evaluated][-1] == 2
    assert min(line["iteration"] for line in evaluated) == 2, "no metric was there before the last step was done"
    assert numbers(results) == json.loads(results_file(run).read_text())
    assert list((run / "inference").rglob("predictions")) == [run / "inference" / "predictions"], (
        "those of earlier evaluations are given up"
    )
    early = {path.name for path in (run / "inference" / "model_0000000").iterdir()}
    assert "results.json" in early, "its numbers are kept"
    assert "coco_instances_results.json" not in early


def test_a_scorer_that_crashes_is_reported_and_does_not_end_the_training(
    data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    crash = "sys.stderr.write('a table too many'); sys.stderr.flush(); os._exit(9)"
    monkeypatch.syspath_prepend(slow_down_scoring(tmp_path / "broken", 0, then=crash))
    with caplog.at_level("ERROR", logger="eva02_det"):
        results = train(small_config(run, 2))
    assert results == {}
    assert "a table too many" in caplog.text
    assert f"-m eva02_det.evaluation.score {run / 'inference'}" in caplog.text
    assert (run / "model_final.pth").is_file()


def test_a_set_without_ground_truth_has_no_metrics_and_is_no_error(data: Path, run: Path):
    content = json.loads((data / "small" / "annotations" / "instances_val.json").read_text())
    del content["annotations"]
    write_annotations(data, "val", content)
    assert train(small_config(run, 1)) == {}
    assert len(json.loads((run / "inference" / "coco_instances_results.json").read_text())) > 0
