"""The dry run says what a run would do, for every recipe, on a machine that has neither data nor a GPU."""

import re
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from eva02_det.engine.dry_run import dry_run
from eva02_det.engine.memory import estimate_memory
from eva02_det.utils.errors import UserError
from tests.configs.recipes import load, own_recipes

# specification 1.11: net, pyramid, proposals, heads, all
COUNTS = {
    "coco/eva02_b_1024": (85_848_576, 5_560_000, 1_184_015, 48_527_951, 141_120_542),
    "coco/eva02_l_1536_from_o365": (303_388_608, 7_805_184, 1_184_015, 48_527_951, 360_905_758),
    "lvis/eva02_l_1536_win32": (303_388_608, 7_805_184, 1_184_015, 52_269_787, 364_647_594),
    "objects365/eva02_l_1536": (303_388_608, 7_805_184, 1_184_015, 46_760_022, 359_137_829),
}


@pytest.fixture(autouse=True)
def no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nothing_here"))
    monkeypatch.setenv("EVA02_DET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def planned(name: str, *overrides: str, processes: int = 8) -> str:
    return dry_run(load(name, *overrides), processes)


def section(plan: str, heading: str) -> str:
    """The lines under a heading, joined."""
    lines = plan.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"{heading} "))
    end = next((index for index in range(start + 1, len(lines)) if not lines[index].startswith(" ")), len(lines))
    return " ".join(line.removeprefix(heading).strip() for line in lines[start:end])


@pytest.mark.parametrize("name", own_recipes())
def test_every_recipe_is_planned_without_data_and_without_a_gpu(name: str):
    plan = planned(name, processes=1 if "320" in name else 8)
    for heading in ("scaling", "parameters", "memory", "data", "steps", "learning rate", "test", "weights", "not checked"):
        assert section(plan, heading)
    assert "not found here" in section(plan, "not checked")
    assert "train.memory_gib" in section(plan, "not checked")


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_counted_by_part(name: str):
    numbers = [int(text.replace(",", "")) for text in re.findall(r"\d[\d,]+", section(planned(name), "parameters"))]
    assert numbers == [COUNTS[name][-1], *COUNTS[name][:-1]]


def test_the_plan_is_that_of_the_scaled_run_and_the_config_stays_as_it_was():
    config = load("coco/eva02_l_1536_from_o365", "train.batch=16", "train.memory_gib=24")
    before = OmegaConf.to_container(config)
    plan = dry_run(config, 4)
    assert OmegaConf.to_container(config) == before
    assert "160,000 iterations of 16 images = 2,560,000 images = 21.6 passes over the 118,287" in section(plan, "steps")
    assert section(plan, "learning rate").startswith("2e-05; 26 groups")
    assert "decay 0.999975" in section(plan, "test")
    assert "4 processes x 2 images x 2 loader batches" in section(plan, "scaling")


def test_the_memory_that_is_told_is_that_of_the_estimate():
    config = load("coco/eva02_b_1024", "train.memory_gib=24")
    plan = planned("coco/eva02_b_1024", "train.memory_gib=24")
    each, told = int(re.search(r"8 processes x (\d+) image", plan)[1]), section(plan, "memory")
    assert told.startswith(f"about {estimate_memory(config, 8).total_gib(each):.1f} GiB a process with {each} image")
    for part in ("weights", "gradients", "AdamW moments", "blocks", "pyramid", "proposals", "box heads", "mask head"):
        assert part in told


def test_learning_rates_fall_by_layer_as_in_the_specification():
    """L, decay 0.8: 0.8^25 for the embeddings; 24 blocks, embeddings and the rest make 26 groups; B: 14 (section 7.2)."""
    large, base = (section(planned(f"coco/eva02_{size}_1024"), "learning rate") for size in "lb")
    assert "26 groups of parameters from 2.267e-07 (x 0.003778) to 6e-05, weight decay 0.1" in large
    assert "14 groups" in base
    assert "0: 0.001, 1,000: 1, 30,000: 1, 48,000: 0.1, 54,000: 0.01" in large


def test_the_average_costs_as_much_memory_as_the_weights():
    plan = section(planned("coco/eva02_l_1536_from_o365"), "memory")
    assert re.search(r"weights (\d\.\d\d)", plan)[1] == re.search(r"weight average (\d\.\d\d)", plan)[1]


def test_data_that_are_there_are_told_and_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for split in ("train", "val"):
        file = tmp_path / "coco/annotations" / f"instances_{split}2017.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("not even JSON")
    told = section(planned("coco/eva02_b_1024"), "not checked")
    assert "coco_2017_train is here, but was not opened" in told
    assert "not found here" not in told


def test_a_start_that_is_not_there_is_told(tmp_path: Path):
    missing = section(planned("coco/eva02_b_1024", f"train.init_checkpoint={tmp_path}/none.pth"), "not checked")
    assert "none.pth does not exist here" in missing
    assert "hf://Yuxin-CV/EVA-02" in section(planned("coco/eva02_b_1024"), "weights")


def test_what_cannot_run_is_refused_before_any_gpu_is_used():
    with pytest.raises(UserError, match="cannot be shared"):
        planned("coco/eva02_b_1024", processes=7)
    with pytest.raises(UserError, match="cannot be built"):
        planned("coco/eva02_b_1024", "model.backbone.net.num_heads=7")


def test_a_plan_takes_seconds():
    """Not a measurement: a run that allocated the weights of a large model, let alone trained, would take minutes here."""
    config = load("objects365/eva02_l_1536")
    started = time.process_time()
    dry_run(config, 8)
    assert time.process_time() - started < 30
