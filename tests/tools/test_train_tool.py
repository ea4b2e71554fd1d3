"""The training tool as a user calls it: it trains, resumes and evaluates, and says in one sentence what is wrong."""

import json
import logging
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.utils.logger import setup_logger

from eva02_det.engine.export import export_model
from tests.engine.small_run import forget, write_annotations, write_set

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "projects/demo/configs/nano_scenes.py"
QUICK = ("dataloader.train.num_workers=0", "dataloader.test.num_workers=0", "train.log_period=1")
CLASSES = ("disc", "box", "triangle", "star", "ring")

Caller = Callable[..., str]


def tool(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the tool on the data sets below `root`, writing to `root/run`."""
    env = {**os.environ, "DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "tools/lazyconfig_train_net.py", "--config-file", CONFIG, *arguments]
    command += [f"train.output_dir={root / 'run'}", *QUICK]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=400)


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """What a refused run says: the last line of its errors, without a traceback before it."""
    assert done.returncode == 2, done.stdout[-2000:] + done.stderr[-2000:]
    return only_error(done.stderr)


def only_error(text: str) -> str:
    assert "Traceback" not in text, text
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, text
    return lines[0]


def write_scenes(root: Path, split: str, count: int = 4) -> dict[str, Any]:
    return write_set(root, split, count, classes=CLASSES, name="scenes")


def losses_of(run: Path) -> list[dict]:
    """The lines of the JSON metrics that report a step."""
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    return [line for line in lines if "total_loss" in line]


@pytest.fixture
def own_loggers() -> Iterator[None]:
    """A run sets up the loggers of its process: undone afterwards, for the other tests in it."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "eva02_det")]
    before = [(logger, list(logger.handlers), logger.propagate, logger.level) for logger in loggers]
    setup_logger.cache_clear()
    yield
    setup_logger.cache_clear()
    for logger, handlers, propagate, level in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own_loggers: None) -> Caller:
    """Runs the tool inside this process, which spares its start; returns what it prints, or its error with status 2."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.chdir(ROOT)
    forget("scenes_train", "scenes_val")

    def run(*arguments: str, status: int = 0, config: str | None = CONFIG) -> str:
        given = ["--config-file", config] if config else []
        overrides = [f"train.output_dir={tmp_path / 'run'}", *QUICK[2 * (config is None) :]]
        if not any(one.startswith("train.output_dir") for one in arguments):
            arguments = (*arguments, *overrides)
        monkeypatch.setattr(sys, "argv", ["lazyconfig_train_net.py", *given, *arguments])
        capsys.readouterr()
        if not status:
            runpy.run_path("tools/lazyconfig_train_net.py", run_name="__main__")
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path("tools/lazyconfig_train_net.py", run_name="__main__")
        assert stopped.value.code == status
        return only_error(capsys.readouterr().err)

    return run


@pytest.fixture
def refused(call: Caller) -> Caller:
    return partial(call, status=2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_scenes(tmp_path, "train")
    write_scenes(tmp_path, "val", 2)
    return tmp_path


def predictions(run: Path) -> str:
    return (run / "inference" / "coco_instances_results.json").read_text()


def test_a_run_trains_saves_evaluates_resumes_and_is_evaluated_again(data: Path, call: Caller):
    first = tool(data, "train.max_iter=2", "train.eval_period=2", "train.checkpointer.period=1")
    assert first.returncode == 0, first.stderr[-3000:]
    run = data / "run"
    assert torch.load(run / "model_final.pth", weights_only=True)["iteration"] == 1
    assert {"total_loss", "lr", "data_time", "iteration"} <= set(losses_of(run)[-1])
    assert list(run.glob("events.out.tfevents*"))
    written, config = predictions(run), (run / "config.yaml").read_text()
    assert set(json.loads((run / "inference" / "results.json").read_text())) == {"bbox", "segm"}

    call("--resume", "train.max_iter=3", "dataloader.evaluator=null")
    assert torch.load(run / "model_final.pth", weights_only=True)["iteration"] == 2
    assert [line["iteration"] for line in losses_of(run)] == [0, 1, 2]

    (run / "config.yaml").write_text(config)
    call("--eval-only", f"train.init_checkpoint={run / 'model_0000001.pth'}")
    assert predictions(run) == written
    (run / "inference" / "coco_instances_results.json").unlink()
    call("--eval-only", "--model", str(run / "model_0000001.pth"), config=None)  # the config.yaml beside it tells the rest
    assert predictions(run) == written
    assert (run / "config.yaml").read_text() == config


def test_an_exported_model_is_evaluated_without_a_flag_and_by_its_own_protocol(data: Path, call: Caller):
    call("train.max_iter=1", "dataloader.evaluator=null", "protocol=coco_system")
    run, folder = data / "run", data / "exported"
    call("--eval-only", f"train.init_checkpoint={run / 'model_final.pth'}", "protocol=coco_system")
    export_model(CONFIG, run / "model_final.pth", folder, overrides=["protocol=coco_system"])
    elsewhere = f"train.output_dir={data / 'elsewhere'}"
    call("--eval-only", "--model", str(folder), elsewhere, config=None)
    assert predictions(data / "elsewhere") == predictions(run)
    assert "mask_score" in predictions(run), "which the protocol of the config file does not give"
    # a config beside it gives the data; the model and its protocol stay those of the folder
    call("--eval-only", f"train.init_checkpoint={folder}", f"train.output_dir={data / 'with_config'}")
    assert predictions(data / "with_config") == predictions(run)


def test_an_exported_model_is_not_evaluated_on_other_classes(data: Path, call: Caller, refused: Caller):
    call("train.max_iter=1", "dataloader.evaluator=null")
    export_model(CONFIG, data / "run" / "model_final.pth", data / "exported")
    content = write_set(data, "val", classes=("disc", "box", "triangle", "ring", "star"), name="other")
    files = ("--data", str(data / "other/annotations/instances_val.json"), "--images", str(data / "other/val"))
    said = refused("--eval-only", "--model", str(data / "exported"), *files, config=None)
    assert len(content["categories"]) == 5
    assert "differ from number 4 on (star, ... and ring, ...)" in said


def test_custom_data_are_trained_on_with_classes_of_their_own(tmp_path: Path, call: Caller):
    write_set(tmp_path, "train", classes=("nut", "bolt"), name="parts")
    files = ("--data", str(tmp_path / "parts/annotations/instances_train.json"), "--images", str(tmp_path / "parts/train"))
    call(*files, "train.max_iter=1", "dataloader.evaluator=null")
    assert "2 classes from" in (tmp_path / "run" / "log.txt").read_text()
    weights = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)["model"]
    assert weights["roi_heads.box_predictor.0.cls_score.weight"].shape[0] == 3
    assert weights["roi_heads.mask_head.predictor.weight"].shape[0] == 2
    assert "nut" in (tmp_path / "run" / "config.yaml").read_text()


def test_the_documented_override_keys_of_the_authors_choose_their_protocol(data: Path, call: Caller):
    call("train.max_iter=1", "dataloader.evaluator=null")
    heads = {"use_soft_nms": "True", "class_wise": "True", "method": "linear", "iou_threshold": 0.6, "override_score_thresh": 0.0}
    keys = [f"model.roi_heads.{key}={value}" for key, value in {**heads, "maskness_thresh": 0.5}.items()]
    call("--eval-only", f"train.init_checkpoint={data / 'run' / 'model_final.pth'}", *keys)
    released = predictions(data / "run")
    call("--eval-only", f"train.init_checkpoint={data / 'run' / 'model_final.pth'}", "protocol=coco_system")
    ours = json.loads(predictions(data / "run"))
    assert ours
    assert "mask_score" in ours[0]
    assert len(json.loads(released)) >= len(ours), "the protocol leaves out what no evaluation counts"
    assert {json.dumps(one) for one in ours} <= {json.dumps(one) for one in json.loads(released)}


def test_a_dry_run_says_what_a_run_needs_and_leaves_nothing_behind(tmp_path: Path, call: Caller):
    said = call("--dry-run", "--num-gpus", "4", "train.batch=16")
    assert "train.batch=16 in place of 8" in said
    assert "parameters" in said
    assert "scenes_train not found here" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.distributed
def test_two_processes_on_one_machine_train_and_evaluate(data: Path):
    done = tool(data, "--num-gpus", "2", "train.max_iter=1", "train.eval_period=1", "train.device=cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (data / "run" / "model_final.pth").is_file()
    assert (data / "run" / "inference" / "coco_instances_results.json").is_file()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_with_finite_losses(data: Path, call: Caller, precision: str):
    call("train.max_iter=2", "dataloader.evaluator=null", "train.amp.enabled=True", f"train.amp.precision={precision}")
    losses = [line["total_loss"] for line in losses_of(data / "run")]
    assert losses
    assert all(0 < loss < 100 for loss in losses)


def test_an_unknown_override_key_is_named_with_the_nearest_known_one(refused: Caller):
    assert "did you mean 'max_iter'" in refused("train.max_itr=5")


def test_a_missing_data_set_is_named_with_the_remedy(tmp_path: Path):
    said = sentence(tool(tmp_path))
    assert "scenes" in said
    assert "DETECTRON2_DATASETS" in said


def test_a_missing_image_is_found_before_training(data: Path, refused: Caller):
    (data / "scenes" / "train" / "3.jpg").unlink()
    assert "3.jpg" in refused()
    assert not list((data / "run").glob("*.pth"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_jpeg_is_named_once_whoever_reads_it(data: Path, refused: Caller, workers: int):
    for path in (data / "scenes" / "train").iterdir():
        path.write_bytes(path.read_bytes()[:400])
    assert ".jpg" in refused("train.max_iter=1", f"dataloader.train.num_workers={workers}")


def test_an_annotation_that_is_not_a_number_is_named(data: Path, refused: Caller):
    content = json.loads((data / "scenes/annotations/instances_train.json").read_text())
    content["annotations"][1]["bbox"][2] = float("nan")
    write_annotations(data, "train", content, name="scenes")
    said = refused("train.max_iter=1")
    assert "2" in said
    assert "instances_train.json" in said


def test_a_box_outside_the_image_is_dropped_with_a_warning_and_an_empty_image_is_evaluated(data: Path, call: Caller):
    for split in ("train", "val"):
        content = json.loads((data / f"scenes/annotations/instances_{split}.json").read_text())
        content["annotations"][0] |= {"bbox": [500, 500, 40, 40], "segmentation": [[500, 500, 540, 500, 540, 540, 500, 540]]}
        content["annotations"] = [a for a in content["annotations"] if a["id"] != 2]
        write_annotations(data, split, content, name="scenes")
    call("train.max_iter=1", "train.eval_period=1")
    assert "outside" in (data / "run" / "log.txt").read_text()
    assert predictions(data / "run")


def test_weights_of_another_model_are_refused_with_the_first_difference(data: Path, refused: Caller):
    torch.save({"model": {"backbone.bottom_up.stem.conv1.weight": torch.zeros(3)}}, data / "other.pth")
    said = refused("--eval-only", f"train.init_checkpoint={data / 'other.pth'}")
    assert "other.pth (detector) is not one of this model" in said
    assert "backbone.bottom_up.stem.conv1.weight" in said


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.backbone.net.attention=flash", "attention='flash' is unknown"),
        ("model.backbone.net.global_block_indexes=[2,9]", r"global_block_indexes names [9]"),
    ],
)
def test_an_impossible_model_is_refused_with_the_option_to_correct(data: Path, refused: Caller, override: str, named: str):
    assert named in refused("train.max_iter=1", override)


def test_weights_that_do_not_exist_are_refused(data: Path, refused: Caller):
    assert "nowhere.pth does not exist" in refused("--eval-only", "train.init_checkpoint=nowhere.pth")


def test_evaluation_without_weights_is_refused(data: Path, refused: Caller):
    assert "train.init_checkpoint=FILE" in refused("--eval-only")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_said_before_anything_is_read(data: Path, refused: Caller):
    assert "train.device=cpu" in refused("train.device=cuda")


def test_a_precision_that_does_not_exist_is_refused(data: Path, refused: Caller):
    assert "fp32, bf16, fp16" in refused("train.amp.enabled=True", "train.amp.precision=int8")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--data", "a.json"), "--data and --images belong together"),
        (("--images", "a"), "--data and --images belong together"),
        (("--val-data", "a.json"), "--val-data needs --val-images"),
        (("--val-data", "a.json", "--val-images", "a"), "--val-data without --data"),
    ],
)
def test_options_that_need_each_other_are_named(refused: Caller, options: tuple[str, ...], named: str):
    assert named in refused(*options)


def test_a_run_without_config_is_refused(refused: Caller):
    assert "--config-file FILE" in refused(config=None)


@pytest.mark.distributed
def test_bad_input_found_by_worker_processes_is_one_sentence_too(data: Path):
    (data / "scenes" / "train" / "3.jpg").unlink()
    assert "3.jpg" in sentence(tool(data, "--num-gpus", "2", "train.device=cpu"))
