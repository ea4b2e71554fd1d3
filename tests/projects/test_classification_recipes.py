"""The classification recipes have the published values, all of them (Tables 23-25 and the released commands)."""

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from eva02_det.layers.sizes import TRV_SIZES
from eva02_det.utils.config import load_config
from eva02_det.utils.errors import UserError
from eva02_mim.build import plan
from eva02_mim.finetune_build import PARTS, check_settings

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "projects/eva02_mim/configs/classification"
OWN = ("nano", "probe_imagenet", "probe_nano")  # without a published counterpart

# columns: size, peak rate, layer decay, pixels, batch, epochs, warm-up, drop path, smoothing, smallest crop, average, classes
TABLE = """
b_in21k_448           B   3e-4  .70  448  2048   40  1  .10  .1  .2   no   21841
l_in21k_448           L   3e-4  .75  448  2048   30  1  .15  .1  .2   no   21841
l_in21kmim_in21k_448  L   2e-4  .75  448  1024   20  1  .15  .1  .2   no   21841
b_in21k_to_in1k_448   B   5e-5  .80  448   512   15  2  .15  .2  .08  yes  1000
l_in21k_to_in1k_448   L   2e-5  .85  448   512   20  2  .15  .2  .08  yes  1000
ti_in1k_336           Ti  2e-4  .90  336  1024  100  5  .10  .1  .08  yes  1000
s_in1k_336            S   1e-4  .80  336  1024  100  5  .10  .1  .08  yes  1000
b_in1k_448            B   1e-4  .70  448  1024   30  3  .10  .1  .08  yes  1000
l_in1k_448            L   7e-5  .80  448  1024   30  3  .15  .2  .08  yes  1000
l_in21kmim_in1k_448   L   5e-5  .80  448  1024   30  3  .15  .2  .08  yes  1000
"""
ROWS = {row.split()[0]: row.split()[1:] for row in TABLE.strip().splitlines()}
TOP_1 = {
    "ti_in1k_336": "80.714",
    "s_in1k_336": "85.780",
    "b_in1k_448": "88.282",
    "l_in1k_448": "89.570",
    "l_in21kmim_in1k_448": "89.626",
    "b_in21k_to_in1k_448": "88.570",
    "l_in21k_to_in1k_448": "89.974",
}


def recipe(name: str) -> DictConfig:
    config = load_config(CONFIGS / f"{name}.py")
    assert set(PARTS) <= set(config)
    return config


@pytest.mark.parametrize("name", ROWS)
def test_every_published_value_is_that_of_the_recipe(name: str):
    size, rate, decay, pixels, batch, epochs, warmup, drop, smoothing, area, average, classes = ROWS[name]
    config = recipe(name)
    with torch.device("meta"):
        model = instantiate(config.model)
    shape = TRV_SIZES[size]
    assert (model.embed_dim, len(model.blocks), model.num_classes) == (shape.embed_dim, shape.depth, int(classes))
    assert (model.image_size, model.patch_embed.patch_size, model.positions.rotary_grid) == (int(pixels), 14, 16)
    assert model.blocks[-1].drop_path.rate == pytest.approx(float(drop))
    assert not model.use_cls
    assert not model.patch_embed.proj.weight.requires_grad
    optimizer, train, crop = config.optimizer, config.train, config.dataloader.train.crop
    assert (optimizer.lr, optimizer.params.layer_decay) == (float(rate), float(decay))
    assert (list(optimizer.betas), optimizer.eps) == ([0.9, 0.999], 1e-8)
    assert optimizer.weight_decay == optimizer.params.weight_decay == 0.05
    assert (train.batch, train.epochs, config.schedule.warmup_epochs) == (int(batch), int(epochs), int(warmup))
    assert (config.schedule.peak_lr, config.schedule.min_lr, train.clip_grad_norm) == (float(rate), 0, None)
    assert (train.label_smoothing, list(crop.area)) == (float(smoothing), [float(area), 1.0])
    assert (crop.augment, crop.flip) == ("rand-m9-mstd0.5-inc1", 0.5)
    assert train.ema.decay == (0.9999 if average == "yes" else None)
    assert (config.dataloader.validation is None) == (classes == "21841")
    assert config.dataloader.validation is None or config.dataloader.validation.crop_ratio == 1.0
    assert train.decay_frozen
    assert (train.precision, train.init_checkpoint) == ("bf16", None)


def test_every_recipe_of_the_folder_is_in_the_table():
    assert {file.stem for file in CONFIGS.glob("*.py")} == {*ROWS, *OWN}


@pytest.mark.parametrize("name", ROWS)
def test_the_rate_rises_to_the_peak_and_falls_to_zero(name: str):
    config = recipe(name)
    steps, rate = plan(config, 100)
    warmup = 100 * config.schedule.warmup_epochs
    assert (rate(0), rate(warmup - 1), rate(warmup)) == (0, config.optimizer.lr, config.optimizer.lr)
    assert 0 < rate(steps - 1) < 1e-5 * config.optimizer.lr


def test_a_recipe_does_not_train_from_scratch_by_oversight():
    with pytest.raises(UserError, match=r"train\.init_checkpoint names no weights; pass train.init_checkpoint=FILE"):
        check_settings(recipe("b_in1k_448"))


@pytest.mark.parametrize("name", [*ROWS, "nano"])
def test_a_recipe_says_how_to_start_it_on_what_and_what_to_expect(name: str):
    text = (CONFIGS / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 40
    command = f"Command: tools/finetune_classifier.py --config-file projects/eva02_mim/configs/classification/{name}.py"
    for part in (command, "GPUs: ", "Data: ", "Expected: "):
        assert part in text
    assert TOP_1.get(name, "") in text
