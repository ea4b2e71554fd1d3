"""Data, memory of loaders and of GPUs, held against what there is, on small sets and real loaders."""

from pathlib import Path

import pytest

from eva02_det.engine import doctor
from tests.data.tiny_sets import lvis
from tests.engine.small_run import forget, small_config, write_set


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_set(tmp_path, "train", 8)
    write_set(tmp_path, "val", 3)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    yield tmp_path
    forget("small_train", "small_val")


def test_sets_of_a_config_are_counted_and_missing_images_are_a_fault(data: Path):
    names = doctor.names_of(small_config(data / "run"))
    assert names == ["small_train", "small_val"]
    assert [one.state for one in doctor.check_data(names, workers=1)] == ["ok", "ok"]
    (data / "small" / "train" / "3.jpg").unlink()
    train, val = doctor.check_data(names, workers=1)
    assert train.state == "fault"
    assert train.text == "8 images, 8 annotations, 5 classes; 1 images missing"
    assert "check_datasets.py small_train" in train.remedy
    assert val.text.startswith("3 images")


def test_lvis_needs_both_folders_of_coco_and_a_part_of_it_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    lvis(tmp_path, "val", ["train2017/000000000001.jpg", "train2017/000000000002.jpg"])
    found = {one.topic: one for one in doctor.check_data(["lvis_v1_val"], workers=1)}
    assert found["data lvis_v1_val"].state == "warning"
    assert "while the published set lists 19,809 images" in found["data lvis_v1_val"].text
    assert found["LVIS train2017"].state == "warning"
    assert found["LVIS train2017"].text.startswith("2 of 118,287 images")
    assert found["LVIS val2017"].state == "fault"
    assert "every split of LVIS has images from train2017 and from val2017" in found["LVIS val2017"].text


def test_memory_of_loader_workers_is_measured_and_held_against_what_slurm_grants(data: Path, monkeypatch: pytest.MonkeyPatch):
    config = small_config(data / "run")
    config.dataloader.train.num_workers = 2
    monkeypatch.setenv("SLURM_MEM_PER_NODE", str(10**6))
    found = doctor.check_loader(lambda: doctor.open_train_loader(config), 2, 4)
    held = doctor.memory_gib()
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1024")
    small = doctor.check_loader(lambda: doctor.open_train_loader(config), 2, 4)
    if held > 4:
        assert found.state == "ok"
    assert found.text.startswith("4 processes x (")
    workers = float(found.text.split("2 workers x ")[1].split()[0])
    assert 0 < workers < 2, "GiB of one worker by itself"
    assert small.state == "fault", "four processes that hold torch do not fit into 1 GiB"
    assert small.remedy.startswith("dataloader.train.num_workers=0")


def test_the_estimate_of_a_config_is_held_against_the_gpu(data: Path):
    config = small_config(data / "run")
    config.train.device = "cuda"
    config.train.memory_gib = 40
    assert doctor.check_memory(config, 1).state == "ok"
    config.train.memory_gib = 0.5
    refused = doctor.check_memory(config, 1)
    assert refused.state == "fault"
    assert "0.5" in refused.text
    assert config.dataloader.train.total_batch_size == 2, "the config is left alone"


def test_a_checkpoint_that_takes_minutes_is_a_warning():
    finding, took_s = doctor.check_checkpoint(2.0, 1024.0)
    assert (finding.state, took_s) == ("ok", 2.0)
    finding, took_s = doctor.check_checkpoint(20.0, 102.4)
    assert (finding.state, took_s) == ("warning", 200.0)
    assert "asynchronous" in finding.remedy
