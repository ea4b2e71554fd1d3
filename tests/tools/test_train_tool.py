"""The training tool as a user calls it: it trains, resumes and evaluates, and says in one sentence what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "projects/demo/configs/nano_scenes.py"
QUICK = ("dataloader.train.num_workers=0", "dataloader.test.num_workers=0", "train.log_period=1")
CLASSES = ("disc", "box", "triangle", "star", "ring")


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
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def write_set(root: Path, split: str, count: int = 4) -> dict:
    """Grey pictures with one bright box each; returns the annotations, also on disk."""
    folder = root / "scenes" / split
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        picture = Image.new("RGB", (96, 80), (90, 90, 90))
        picture.paste((250, 20 * number, 60), (10, 20, 50, 60))
        picture.save(folder / f"{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 96, "height": 80})
        outline = [[10, 20, 50, 20, 50, 60, 10, 60]]
        box = {"bbox": [10, 20, 40, 40], "area": 1600, "iscrowd": 0, "segmentation": outline}
        annotations.append({"id": number, "image_id": number, "category_id": 1 + number % 5, **box})
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    save(root, split, content)
    return content


def losses_of(run: Path) -> list[dict]:
    """The lines of the JSON metrics that report a step."""
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    return [line for line in lines if "total_loss" in line]


def save(root: Path, split: str, content: dict) -> None:
    (root / "scenes" / "annotations").mkdir(exist_ok=True)
    (root / "scenes" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_set(tmp_path, "train")
    write_set(tmp_path, "val", 2)
    return tmp_path


def test_a_run_trains_saves_evaluates_resumes_and_is_evaluated_again(data: Path):
    first = tool(data, "train.max_iter=2", "train.eval_period=2", "train.checkpointer.period=1")
    assert first.returncode == 0, first.stderr[-3000:]
    run = data / "run"
    assert torch.load(run / "model_final.pth", weights_only=True)["iteration"] == 1
    assert {"total_loss", "lr", "data_time", "iteration"} <= set(losses_of(run)[-1])
    assert list(run.glob("events.out.tfevents*"))
    assert (run / "config.yaml").is_file()
    predictions = (run / "inference" / "coco_instances_results.json").read_text()
    assert set(json.loads((run / "inference" / "results.json").read_text())) == {"bbox", "segm"}

    resumed = tool(data, "--resume", "train.max_iter=3", "train.eval_period=0")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert torch.load(run / "model_final.pth", weights_only=True)["iteration"] == 2
    assert [line["iteration"] for line in losses_of(run)] == [0, 1, 2]

    weights = f"train.init_checkpoint={run / 'model_0000001.pth'}"
    again = tool(data, "--eval-only", weights)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (run / "inference" / "coco_instances_results.json").read_text() == predictions


@pytest.mark.distributed
def test_two_processes_on_one_machine_train_and_evaluate(data: Path):
    done = tool(data, "--num-gpus", "2", "train.max_iter=1", "train.eval_period=1", "train.device=cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (data / "run" / "model_final.pth").is_file()
    assert (data / "run" / "inference" / "coco_instances_results.json").is_file()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_with_finite_losses(data: Path, precision: str):
    done = tool(data, "train.max_iter=2", "train.eval_period=0", "train.amp.enabled=True", f"train.amp.precision={precision}")
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [line["total_loss"] for line in losses_of(data / "run")]
    assert losses
    assert all(0 < loss < 100 for loss in losses)


def test_an_unknown_override_key_is_named_with_the_nearest_known_one(data: Path):
    assert "did you mean 'max_iter'" in sentence(tool(data, "train.max_itr=5"))


def test_a_missing_data_set_is_named_with_the_remedy(tmp_path: Path):
    said = sentence(tool(tmp_path))
    assert "scenes" in said
    assert "DETECTRON2_DATASETS" in said


def test_a_missing_image_is_found_before_training(data: Path):
    (data / "scenes" / "train" / "3.jpg").unlink()
    said = sentence(tool(data))
    assert "3.jpg" in said
    assert not list((data / "run").glob("*.pth"))


def test_a_truncated_jpeg_is_named(data: Path):
    for path in (data / "scenes" / "train").iterdir():
        path.write_bytes(path.read_bytes()[:400])
    said = sentence(tool(data, "train.max_iter=1"))
    assert ".jpg" in said


def test_a_truncated_jpeg_in_a_loader_process_is_named_once(data: Path):
    for path in (data / "scenes" / "train").iterdir():
        path.write_bytes(path.read_bytes()[:400])
    said = sentence(tool(data, "train.max_iter=1", "dataloader.train.num_workers=1"))
    assert ".jpg" in said


def test_an_annotation_that_is_not_a_number_is_named(data: Path):
    content = json.loads((data / "scenes/annotations/instances_train.json").read_text())
    content["annotations"][1]["bbox"][2] = float("nan")
    save(data, "train", content)
    said = sentence(tool(data, "train.max_iter=1"))
    assert "2" in said
    assert "instances_train.json" in said


def test_a_box_outside_the_image_is_dropped_with_a_warning_and_an_empty_image_is_evaluated(data: Path):
    for split in ("train", "val"):
        content = json.loads((data / f"scenes/annotations/instances_{split}.json").read_text())
        content["annotations"][0] |= {"bbox": [500, 500, 40, 40], "segmentation": [[500, 500, 540, 500, 540, 540, 500, 540]]}
        content["annotations"] = [a for a in content["annotations"] if a["id"] != 2]
        save(data, split, content)
    done = tool(data, "train.max_iter=1", "train.eval_period=1")
    assert done.returncode == 0, done.stderr[-3000:]
    text = done.stdout + done.stderr
    assert "outside" in text


def test_weights_of_another_model_are_refused_with_the_first_difference(data: Path):
    torch.save({"model": {"backbone.bottom_up.stem.conv1.weight": torch.zeros(3)}}, data / "other.pth")
    said = sentence(tool(data, "--eval-only", f"train.init_checkpoint={data / 'other.pth'}"))
    assert "other.pth is not one of this model" in said
    assert "backbone.bottom_up.stem.conv1.weight" in said


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.backbone.net.attention=flash", "attention='flash' is unknown"),
        ("model.backbone.net.global_block_indexes=[2,9]", r"global_block_indexes names [9]"),
    ],
)
def test_an_impossible_model_is_refused_with_the_option_to_correct(data: Path, override: str, named: str):
    assert named in sentence(tool(data, "train.max_iter=1", override))


def test_weights_that_do_not_exist_are_refused(data: Path):
    assert "nowhere.pth does not exist" in sentence(tool(data, "--eval-only", "train.init_checkpoint=nowhere.pth"))


def test_evaluation_without_weights_is_refused(data: Path):
    assert "train.init_checkpoint=FILE" in sentence(tool(data, "--eval-only"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_said_before_anything_is_read(data: Path):
    assert "train.device=cpu" in sentence(tool(data, "train.device=cuda"))


def test_a_precision_that_does_not_exist_is_refused(data: Path):
    assert "fp32, bf16, fp16" in sentence(tool(data, "train.amp.enabled=True", "train.amp.precision=int8"))


@pytest.mark.distributed
def test_bad_input_found_by_worker_processes_is_one_sentence_too(data: Path):
    (data / "scenes" / "train" / "3.jpg").unlink()
    assert "3.jpg" in sentence(tool(data, "--num-gpus", "2", "train.device=cpu"))
