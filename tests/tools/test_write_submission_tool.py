"""The submission tools as a user calls them: from a checkpoint, from an exported folder, from predictions, with two processes."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights

from eva02_det.engine.export import export_model
from eva02_det.evaluation.shards import Shards
from tests.engine.tiny_detector import drawn_picture, save_checkpoint, save_config, tiny_config

ROOT = Path(__file__).resolve().parents[2]
TEST_DEV, VAL = "coco_2017_test-dev", "coco_2017_val"
NAME = "detections_test-dev2017_tiny_results.zip"
# COCO's 80 by their ids, 1 to 90 with gaps; the official package knows them too
NAMES = FasterRCNN_ResNet50_FPN_V2_Weights.DEFAULT.meta["categories"]
CATEGORIES = {number: name for number, name in enumerate(NAMES) if name not in ("__background__", "N/A")}


def forget() -> None:
    for name in (TEST_DEV, VAL):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def write_images(root: Path, split: str, file: str, count: int) -> None:
    """Drawn pictures and the list of them, with ids that are neither contiguous nor sorted as the files are."""
    (root / "coco" / split).mkdir(parents=True, exist_ok=True)
    (root / "coco" / "annotations").mkdir(exist_ok=True)
    images = []
    for number in range(count):
        width, height, image = 150 + 20 * number, 120 + 9 * number, 1000 - 7 * number
        drawn_picture(width, height, number).save(root / "coco" / split / f"{image}.jpg")
        images.append({"id": image, "file_name": f"{image}.jpg", "width": width, "height": height})
    categories = [{"id": number, "name": name} for number, name in CATEGORIES.items()]
    content = {"images": images, "categories": categories} | ({"annotations": []} if split.startswith("val") else {})
    (root / "coco" / "annotations" / file).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO's test-dev and val of a few pictures, a config and a checkpoint."""
    root = tmp_path_factory.mktemp("kit")
    write_images(root, "test2017", "image_info_test-dev2017.json", 3)
    write_images(root, "val2017", "instances_val2017.json", 4)
    config = tiny_config(num_classes=len(CATEGORIES))
    save_config(config, root)
    save_checkpoint(config, root / "model.pth")
    return root


@pytest.fixture
def call(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a tool inside this process; returns what it prints, or its error with status 2."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    monkeypatch.chdir(ROOT)
    forget()

    def run(tool: str, *arguments: object, status: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(f"tools/{tool}", run_name="__main__")
        told = capsys.readouterr()
        assert stopped.value.code == status, told.out + told.err
        return told.err if status == 2 else told.out

    yield run
    forget()
    setup_logger.cache_clear()


def model(root: Path) -> list[object]:
    return ["--config-file", root / "tiny.yaml", "--model", root / "model.pth"]


def content(file: Path) -> list[dict]:
    with zipfile.ZipFile(file) as archive:
        return json.loads(archive.read(archive.namelist()[0]))


@pytest.fixture(scope="module")
def two_ranks(root: Path) -> Path:
    """A submission to test-dev by two processes, in a process of the user's."""
    env = {**os.environ, "DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "tools/write_submission.py", "--name", "tiny", "--out", root / "two", *model(root)]
    command += ["--num-gpus", "2", "protocol=coco_system"]
    done = subprocess.run(
        [*map(str, command)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert done.stdout.count(": no fault") == 2, done.stdout
    return root / "two"


@pytest.mark.distributed
def test_one_pass_of_two_processes_gives_boxes_with_plain_and_masks_with_calibrated_scores(two_ranks: Path):
    boxes, masks = (content(two_ranks / task / NAME) for task in ("bbox", "segm"))
    parts = list(Shards(two_ranks / "inference", 2))
    assert sorted(image for part in parts for image in part.image_ids.tolist()) == [986, 993, 1000]
    plain = {(part.image_ids[part.image[row]].item(), float(str(part.scores[row]))) for part in parts for row in range(len(part))}
    calibrated = {
        (part.image_ids[part.image[row]].item(), float(str(part.mask_scores[row]))) for part in parts for row in range(len(part))
    }
    assert boxes
    assert masks
    assert {(one["image_id"], one["score"]) for one in boxes} <= plain
    assert {(one["image_id"], one["score"]) for one in masks} <= calibrated
    assert not {(one["image_id"], one["score"]) for one in masks if one["score"]} & plain  # maskness is below 1
    assert {one["category_id"] for one in boxes} <= CATEGORIES.keys()


@pytest.mark.distributed
def test_predictions_that_are_there_give_the_same_submission_without_a_model(
    two_ranks: Path, root: Path, call: Callable[..., str]
):
    told = call("write_submission.py", "--name", "tiny", "--out", root / "again", "--predictions", two_ranks / "inference")
    assert "ranked by the mask scores" in told
    for task in ("bbox", "segm"):
        assert (root / "again" / task / NAME).read_bytes() == (two_ranks / task / NAME).read_bytes()


def test_an_exported_model_writes_what_its_checkpoint_does(root: Path, call: Callable[..., str]):
    one_process = ["--name", "tiny", "--task", "bbox", "dataloader.test.num_workers=0"]
    checkpoint = ["--out", root / "one", *model(root), *one_process]
    call("write_submission.py", *checkpoint)
    forget()
    names = root / "coco" / "annotations" / "instances_val2017.json"
    export_model(root / "tiny.yaml", root / "model.pth", root / "exported", classes=names)
    call("write_submission.py", "--out", root / "from_folder", "--model", root / "exported", *one_process)
    assert content(root / "one" / "bbox" / NAME) == content(root / "from_folder" / "bbox" / NAME)
    assert not (root / "one" / "segm").exists()


def test_a_half_of_val_stands_in_for_the_test_set(root: Path, call: Callable[..., str]):
    options = ["--name", "tiny", "--dataset", VAL, "--half", "b", "--per-image", 20]
    options += [*model(root), "dataloader.test.num_workers=0"]
    told = call("write_submission.py", "--out", root / "half", *options)
    file = root / "half" / "bbox" / "detections_val2017_tiny_results.zip"
    images = {one["image_id"] for one in content(file)}
    assert len(images) == 2
    assert "in 2 images" in told
    checked = ["--dataset", VAL, "--per-image", 20, file]
    assert "no fault" in call("check_submission.py", *checked, "--half", "b")
    assert "image_id" in call("check_submission.py", *checked, "--half", "a", status=1)


def test_the_checker_says_what_a_server_would_not_take_and_ends_with_1(two_ranks: Path, root: Path, call: Callable[..., str]):
    renamed = shutil.copy(two_ranks / "bbox" / NAME, root / "results.zip")
    told = call("check_submission.py", two_ranks / "bbox" / NAME, renamed, "--per-image", 3, status=1)
    assert "has 100 detections and 3 are the most that count" in told
    assert "fault: results.zip is not what the server calls the file" in told
    annotations = root / "coco" / "annotations" / "image_info_test-dev2017.json"
    assert "no fault" in call("check_submission.py", two_ranks / "segm" / NAME, "--annotations", annotations)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give --model, a model folder or"),
        (["--predictions", "x", "--model", "y"], "leave out --model and --config-file"),
        (["--predictions", "x"], "description.json does not exist"),
        (["--model", "x", "--config-file", "projects/eva02/configs/coco/nano_320.py", "--dataset", "nowhere_val"], "nowhere_val"),
    ],
)
def test_wrong_input_is_one_sentence_and_status_2(call: Callable[..., str], tmp_path: Path, arguments: list[str], sentence: str):
    told = call("write_submission.py", "--name", "tiny", "--out", tmp_path, *arguments, status=2)
    assert sentence in told
    assert len(told.splitlines()) == 1
