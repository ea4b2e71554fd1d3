"""The pre-training recipes have the published values, all of them."""

import json
import os
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from eva02_mim.build import plan
from eva02_mim.config import load_recipe
from eva02_mim.groups import decay_groups

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "projects/eva02_mim/configs"
PUBLISHED = Path(os.environ.get("EVA02_SPECS", ROOT.parent / "shared" / "specs")) / "pretraining_recipes.json"
OF_SIZE = {"eva02_ti": "ti_in21k", "eva02_s": "s_in21k", "eva02_b": "b_in21k", "eva02_l": "l_merged38m"}
TEACHERS = {"timm:eva_giant_patch14_clip_224.laion400m": "EVA-CLIP g/14 (1024-d patch features)"}
IMAGES = {"IN-21K": 14_200_000, "Merged-38M": 38_000_000}

needs_published = pytest.mark.skipif(not PUBLISHED.is_file(), reason="EVA02_SPECS names no folder with the published recipes")


def recipe(name: str) -> DictConfig:
    return load_recipe(CONFIGS / f"{name}.py")


def data_of(config: DictConfig) -> str:
    source = config.dataloader.train.source
    return "Merged-38M" if "sources" in source and len(source.sources) == 7 else {14_200_000: "IN-21K"}[source.expected]


def values_of(config: DictConfig) -> dict[str, object]:
    """The facts of the published table, read from what the config builds."""
    with torch.device("meta"):
        student = instantiate(config.student)
    loader = config.dataloader.train
    optimizer, masks = config.optimizer, loader.masks
    shapes = {name: tuple(parameter.shape) for name, parameter in student.named_parameters()}
    return {
        "width": student.embed_dim,
        "depth": len(student.blocks),
        "heads": student.embed_dim // student.head_dim,
        "ffn_hidden": shapes["blocks.0.mlp.w3.weight"][1],
        "sub_ln": "blocks.0.mlp.ffn_ln.weight" in shapes,
        "patch": shapes["patch_embed.proj.weight"][-1],
        "image": student.image_size,
        "teacher": TEACHERS[config.teacher.source],
        "data": data_of(config),
        "peak_lr": config.schedule.peak_lr,
        "min_lr": config.schedule.min_lr,
        "batch": config.train.batch,
        "epochs": config.train.epochs,
        "warmup_epochs": config.schedule.warmup_epochs,
        "betas": list(optimizer.betas),
        "eps": optimizer.eps,
        "weight_decay": optimizer.params.weight_decay,
        "grad_clip": config.train.clip_grad_norm,
        "drop_path": student.blocks[-1].drop_path.rate,
        "mask_ratio": 0.4 if masks.count == 105 else None,
        "masked_patches_of_256": masks.count,
        "random_resized_crop": list(loader.crop.area),
        "horizontal_flip": loader.crop.flip,
    }


@needs_published
@pytest.mark.parametrize("size", OF_SIZE)
def test_every_published_value_is_that_of_the_recipe(size: str):
    assert values_of(recipe(OF_SIZE[size])) == json.loads(PUBLISHED.read_text())[size]


@needs_published
def test_every_published_recipe_is_there():
    assert {key for key in json.loads(PUBLISHED.read_text()) if not key.startswith("_")} == set(OF_SIZE)


def test_l_on_imagenet_21k_differs_from_its_merged_38m_recipe_in_data_and_epochs_only():
    ours, released = values_of(recipe("l_in21k")), values_of(recipe("l_merged38m"))
    assert (ours.pop("data"), ours.pop("epochs")) == ("IN-21K", 150)
    assert (released.pop("data"), released.pop("epochs")) == ("Merged-38M", 56)
    assert ours == released


STEPS = {"ti_in21k": 852_000, "s_in21k": 852_000, "b_in21k": 1.04e6, "l_merged38m": 1.039e6, "l_in21k": 1.04e6}  # spec. 5.2


@pytest.mark.parametrize(("name", "steps"), STEPS.items())
def test_the_epochs_come_to_the_published_number_of_steps(name: str, steps: float):
    config = recipe(name)
    total, schedule = plan(config, IMAGES[data_of(config)] // config.train.batch)
    assert total == pytest.approx(steps, rel=1e-3)
    assert schedule(0) == 0
    assert schedule(schedule.warmup - 1) == schedule(schedule.warmup) == config.schedule.peak_lr
    assert schedule(total - 1) == pytest.approx(1e-5, rel=1e-3)


def test_b_decays_87_of_its_237_tensors():
    with torch.device("meta"):
        student = instantiate(recipe("b_in21k").student)
    undecayed, decayed = decay_groups(student, weight_decay=0.05)
    assert (len(undecayed["params"]), sum(p.numel() for p in undecayed["params"])) == (150, 373_504)
    assert (len(decayed["params"]), sum(p.numel() for p in decayed["params"])) == (87, 86_173_440)
    assert (undecayed["weight_decay"], decayed["weight_decay"]) == (0, 0.05)
    assert any(p is student.mask_token for p in decayed["params"])
    assert any(p is student.lm_head.weight for p in decayed["params"])


@pytest.mark.parametrize("name", STEPS)
def test_all_train_in_bf16_and_l_in_shards(name: str):
    assert recipe(name).train.precision == "bf16"
    assert recipe(name).train.parallel == ("fsdp" if name.startswith("l_") else "ddp")


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.py")), ids=lambda file: file.stem)
def test_a_recipe_is_short_and_says_how_to_start_it_on_what(file: Path):
    text = file.read_text()
    assert len(text.splitlines()) <= 40
    assert f"Command: tools/pretrain.py --config-file projects/eva02_mim/configs/{file.name}" in text
    assert "GPUs: " in text
    assert "Data: " in text
