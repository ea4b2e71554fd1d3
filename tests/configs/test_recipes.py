"""The recipes hold every value of the table of published recipes, read from what they build; none is passed over."""

import ast
import itertools
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, ListConfig
from torch import nn
from torch.optim import AdamW

from eva02_det.modeling.protocols import PROTOCOLS, named_protocol
from eva02_det.modeling.selectors import HardNms, SoftNms
from tests.configs.recipes import CONFIGS, load, own_recipes, published, published_recipes

README = CONFIGS.parent / "README.md"
HUB = "hf://Yuxin-CV/EVA-02/eva02/"
# what a config states but does not compute with: expectations and remarks of the table
ONLY_TOLD = {"paper", "expected_box_ap", "expected_mask_ap", "note"}
ARMS = {
    "coco/eva02_s_1024",
    "coco/eva02_ti_1024",
    "lvis/eva02_s_1024",
    "lvis/eva02_ti_1024",
    "lvis/eva02_l_1024_m38m",
    "lvis/eva02_l_1536_from_o365_m38m",
    "objects365/eva02_l_1536_in21k",
    "objects365/eva02_l_1536_train_only",
}
RECIPES = [name for name in own_recipes() if name.split("/")[1].startswith("eva02_")]


class Built:
    """A recipe and what it describes, built without memory."""

    def __init__(self, name: str) -> None:
        self.config: DictConfig = load(name)
        with torch.device("meta"):
            self.model: nn.Module = instantiate(self.config.model)
        self.config.optimizer.params.model = self.model
        self.optimizer: AdamW = instantiate(self.config.optimizer)
        self.factor = instantiate(self.config.lr_multiplier)
        self.steps: int = self.config.train.max_iter

    @property
    def net(self) -> nn.Module:
        return self.model.backbone.net

    @property
    def heads(self) -> nn.Module:
        return self.model.roi_heads

    @property
    def loader(self) -> DictConfig:
        return self.config.dataloader.train

    def factors(self) -> list[tuple[int, float]]:
        """(iteration, factor) wherever the factor changes after the warm-up, the first time included."""
        after = [(step, self.factor(step / self.steps)) for step in range(self.warmup(), self.steps, 100)]
        return [after[0], *(later for earlier, later in itertools.pairwise(after) if abs(later[1] - earlier[1]) > 1e-9)]

    def warmup(self) -> int:
        """The first iteration whose factor is that of the iteration after it."""
        return next(step for step in range(self.steps) if self.factor(step / self.steps) >= 1.0 - 1e-9)

    def layer_decays(self) -> set[float]:
        """Ratios of the learning rates of neighbouring blocks."""
        factor = instantiate(self.config.optimizer.params.lr_factor_func)
        rates = [factor(f"backbone.net.blocks.{index}.norm1.weight") for index in range(len(self.net.blocks))]
        return {round(lower / upper, 9) for lower, upper in itertools.pairwise(rates)}


@lru_cache
def built(name: str) -> Built:
    """Shared by the tests, which only read it."""
    return Built(name)


def schedule_of(recipe: Built) -> str:
    ratios = [round(later[1] / earlier[1], 6) for earlier, later in itertools.pairwise(recipe.factors())]
    return "constant" if not ratios else f"multistep x{ratios[0]:g}" if len(set(ratios)) == 1 else str(ratios)


def soft_nms_of(recipe: Built) -> dict[str, Any] | None:
    selector = recipe.heads.select_boxes
    if not isinstance(selector, SoftNms):
        return None
    return {
        "method": selector.method,
        "iou": selector.iou_threshold,
        "per_class": selector.per_class,
        "min_score": selector.min_score,
    }


def maskness_of(recipe: Built) -> dict[str, Any] | None:
    rescorer = recipe.heads.rescore_masks
    targets = {"masks": "mask AP only", "boxes_and_masks": "box and mask AP"}
    return None if rescorer is None else {"threshold": rescorer.threshold, "applies_to": targets[rescorer.applies_to]}


def loss_of(recipe: Built) -> str:
    (predictor,) = {
        (one.use_sigmoid_ce, one.use_fed_loss, getattr(one, "fed_loss_num_classes", None)) for one in recipe.heads.box_predictor
    }
    if predictor[:2] == (False, False):
        return "softmax cross-entropy"
    weights = recipe.config.model.roi_heads.box_predictors[0].get_fed_loss_cls_weights
    assert predictor[:2] == (True, True)
    assert weights.dataset_names == "lvis_v1_train"
    return f"sigmoid + federated ({predictor[2]} classes, weights = train image_count ** {weights.freq_weight_power:g})"


def classes_of(recipe: Built) -> int:
    """Classes, if all layers agree on their number."""
    counts = {one.cls_score.out_features - 1 for one in recipe.heads.box_predictor} | {recipe.heads.num_classes}
    if getattr(recipe.heads, "mask_on", False):
        counts.add(recipe.heads.mask_head.predictor.out_channels)
    (number,) = counts
    return number


def only(values: Any) -> Any:
    """The one value that all of them have."""
    (value,) = set(values)
    return value


READ: dict[str, Callable[[Built], Any]] = {
    "optimizer": lambda r: type(r.optimizer).__name__,
    "betas": lambda r: list(only(tuple(g["betas"]) for g in r.optimizer.param_groups)),
    "eps": lambda r: only(g["eps"] for g in r.optimizer.param_groups),
    "weight_decay": lambda r: only(g["weight_decay"] for g in r.optimizer.param_groups),
    "weight_decay_exempt": lambda r: [g for g in r.optimizer.param_groups if g["weight_decay"] == 0],
    "grad_clip": lambda r: r.config.train.clip_grad_norm,
    "warmup_factor": lambda r: r.factor(0.0),
    "patch_size": lambda r: r.net.patch_embed.patch_size,
    "pretrain_grid": lambda r: r.net.positions.rotary_grid,
    "sub_ln": lambda r: only(isinstance(b.mlp.ffn_ln, nn.LayerNorm) for b in r.net.blocks),
    "swiglu": lambda r: only(type(b.mlp).__name__ == "SwiGLU" for b in r.net.blocks),
    "amp_dtype": lambda r: (
        {"fp16": "float16", "bf16": "bfloat16"}[r.config.train.amp.precision] if r.config.train.amp.enabled else None
    ),
    "ddp_fp16_compression": lambda r: r.config.train.ddp.fp16_compression,
    "lsj_scale": lambda r: list(r.loader.mapper.augmentations.scale),
    "horizontal_flip": lambda r: r.loader.mapper.augmentations.flip,
    "width": lambda r: r.net.patch_embed.proj.out_channels,
    "depth": lambda r: len(r.net.blocks),
    "heads": lambda r: only(b.attn.num_heads for b in r.net.blocks),
    "ffn_hidden": lambda r: only(b.mlp.w1.out_features for b in r.net.blocks),
    "layer_decay": lambda r: only(r.layer_decays()),
    "image": lambda r: only(
        [
            r.loader.mapper.augmentations.pixels,
            r.config.dataloader.test.mapper.augmentations.pixels,
            r.model.backbone.padding_constraints["square_size"],
        ]
    ),
    "window": lambda r: r.net.window_size,
    "global_blocks": lambda r: list(r.net.global_block_indexes),
    "drop_path": lambda r: r.net.blocks[-1].drop_path.rate,
    "activation_checkpointing": lambda r: r.net.use_act_checkpoint,
    "lr": lambda r: max(g["lr"] for g in r.optimizer.param_groups),
    "batch": lambda r: r.loader.total_batch_size * r.config.train.accumulate,
    "schedule": schedule_of,
    "max_iter": lambda r: r.steps,
    "milestones": lambda r: [step for step, _ in r.factors()[1:]],
    "warmup_iters": lambda r: r.warmup(),
    "classes": classes_of,
    "mask_head": lambda r: bool(getattr(r.heads, "mask_on", False)),
    "init": lambda r: r.config.train.init_checkpoint.rpartition("/")[2].rpartition(".")[0],
    "ema": lambda r: r.config.train.ema.decay,
    "score_thresh_train_config": lambda r: only(p.test_score_thresh for p in r.heads.box_predictor),
    "topk": lambda r: only(p.test_topk_per_image for p in r.heads.box_predictor),
    "eval_score_thresh": lambda r: r.heads.select_boxes.score_threshold,
    "soft_nms": soft_nms_of,
    "nms_iou": lambda r: r.heads.select_boxes.iou_threshold if isinstance(r.heads.select_boxes, HardNms) else None,
    "maskness": maskness_of,
    "eval_max_dets": lambda r: r.config.dataloader.evaluator.max_detections,
    "loss": loss_of,
    "repeat_factor_threshold": lambda r: r.loader.repeat_threshold,
}


def test_there_are_the_ten_published_recipes_and_the_arms_beside_them():
    assert len(published()) in (0, 10)
    assert set(RECIPES) == ARMS | (set(published()) or set(RECIPES))


@pytest.mark.parametrize(("name", "values"), published_recipes())
def test_a_recipe_has_every_value_of_the_published_one(name: str, values: dict[str, Any]):
    recipe = built(name)
    assert values.keys() - ONLY_TOLD <= READ.keys()
    found = {key: READ[key](recipe) for key in values.keys() - ONLY_TOLD}
    choices = {"init": values["init"].split(" or ")}
    wrong = {
        key: (found[key], values[key])
        for key in found
        if not _equal(found[key], values[key]) and found[key] not in choices.get(key, [])
    }
    assert not wrong


@pytest.mark.parametrize(("name", "values"), published_recipes())
def test_a_recipe_tells_its_command_table_and_expected_numbers(name: str, values: dict[str, Any]):
    told = ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text()))
    assert f"--config-file projects/eva02/configs/{name}.py" in told
    assert "GPUs:" in told
    assert values["paper"].removeprefix("Table ") in told
    for key in ("expected_box_ap", "expected_mask_ap"):
        if key in values:
            assert f"{values[key]:.4f}" in told
    assert not values.get("note") or all(word in told for word in ("det_sys_o365", "seg_sys_o365"))


@pytest.mark.parametrize("name", own_recipes())
def test_a_recipe_is_short(name: str):
    assert 11 <= len((CONFIGS / f"{name}.py").read_text().splitlines()) <= 45


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_starts_from_a_file_that_its_authors_published(name: str):
    start = built(name).config.train.init_checkpoint
    files = {f"pt/eva02_{size}_pt_{data}_p14to16.pt" for size, data in (("B", "in21k"), ("L", "in21k"), ("L", "m38m"))}
    files |= {f"pt/eva02_{size}_pt_in21k_p14.pt" for size in ("Ti", "S")}
    files |= {f"det/eva02_L_{data}_to_o365.pth" for data in ("in21k", "m38m")}
    assert start in {HUB + file for file in files}


@pytest.mark.parametrize("name", [name for name in RECIPES if "from_o365" in name])
def test_after_objects365_exactly_class_layers_masks_and_class_weights_start_anew(name: str):
    """A file of Objects365 fits by name and shape in all other weights."""
    recipes = [built(name), built("objects365/eva02_l_1536")]
    shapes, given = ({key: value.shape for key, value in one.model.state_dict().items()} for one in recipes)
    anew = {key for key in shapes if any(re.search(rule, key) for rule in recipes[0].config.train.new_weights)}
    assert anew == {key for key in shapes if shapes[key] != given.get(key)}
    assert any("bbox_pred" in key for key in shapes.keys() - anew)


@pytest.mark.parametrize(
    ("arm", "of", "differs"),
    [
        ("lvis/eva02_l_1024_m38m", "lvis/eva02_l_1024", {"train.init_checkpoint"}),
        ("lvis/eva02_l_1536_from_o365_m38m", "lvis/eva02_l_1536_from_o365", {"train.init_checkpoint"}),
        ("objects365/eva02_l_1536_in21k", "objects365/eva02_l_1536", {"train.init_checkpoint"}),
        ("objects365/eva02_l_1536_train_only", "objects365/eva02_l_1536", {"dataloader.train.dataset.names"}),
    ],
)
def test_an_arm_of_a_comparison_differs_in_one_value_only(arm: str, of: str, differs: set[str]):
    one, other = (dict(_leaves(load(name))) for name in (arm, of))
    assert one.keys() == other.keys()
    assert {key for key in one if one[key] != other[key]} == differs


def test_the_released_arm_trains_on_train_and_val_and_the_other_one_keeps_val_apart():
    names = [load(f"objects365/{name}").dataloader for name in ("eva02_l_1536", "eva02_l_1536_train_only")]
    assert [loader.train.dataset.names for loader in names] == ["objects365_trainval", "objects365_train"]
    assert {loader.test.dataset.names for loader in names} == {"objects365_val"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_tested_by_the_protocol_that_it_names(name: str):
    config = built(name).config
    protocol = named_protocol(config.protocol.name)
    heads = built(name).heads
    if not getattr(heads, "mask_on", False):
        protocol = protocol.without_masks()
    assert (heads.select_boxes, heads.rescore_masks, heads.mask_budget) == (
        protocol.select_boxes,
        protocol.rescore_masks,
        protocol.mask_budget,
    )
    assert config.train.ema.eval_only == ("ema" if protocol.averaged_weights and config.train.ema.decay else "raw")
    if name.startswith("lvis"):
        assert config.dataloader.evaluator.max_detections == protocol.max_detections


def test_every_protocol_is_used_by_a_recipe():
    assert {built(name).config.protocol.name for name in RECIPES} == set(PROTOCOLS)


def table() -> dict[str, list[str]]:
    """Rows of the first table of the README by recipe."""
    rows = [line.split("|")[1:-1] for line in README.read_text().splitlines() if line.startswith("| `")]
    return {cells[0].strip(" `"): [cell.strip(" `") for cell in cells[1:]] for cells in rows if "eva02_" in cells[0]}


@pytest.mark.parametrize(("name", "values"), published_recipes())
def test_the_readme_tells_the_published_numbers_protocol_and_start(name: str, values: dict[str, Any]):
    box, mask, protocol, start, result, tables = table()[name]
    assert (box, mask) == tuple(
        f"{values[key]:.4f}" if key in values else other
        for key, other in (("expected_box_ap", "-"), ("expected_mask_ap", "no masks"))
    )
    config = built(name).config
    assert (protocol, HUB + start) == (config.protocol.name, config.train.init_checkpoint)
    assert values["paper"].removeprefix("Table ") in tables
    assert result.startswith("eva02_")


def test_the_readme_names_every_recipe_and_protocol():
    text = README.read_text()
    small = {f"{folder}/eva02_{size}_1024" for folder in ("coco", "lvis") for size in ("ti", "s")}
    assert "`{coco,lvis}/eva02_{ti,s}_1024`" in text
    assert not [name for name in set(own_recipes()) - small if f"`{name}`" not in text]
    assert not [name for name in PROTOCOLS if f"| `{name}` |" not in text]


def _equal(found: Any, wanted: Any) -> bool:
    numbers = isinstance(wanted, float) and isinstance(found, int | float)
    return found == pytest.approx(wanted, rel=1e-9) if numbers else found == wanted


def _leaves(node: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every value of a tree with its dotted place."""
    if not isinstance(node, DictConfig | ListConfig):
        return [(path, node)]
    keys = node.keys() if isinstance(node, DictConfig) else range(len(node))
    return [leaf for key in keys for leaf in _leaves(node[key], f"{path}.{key}".lstrip("."))]
