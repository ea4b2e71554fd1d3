"""The plain-ViT baselines hold the published values, start from the published weights, and differ from EVA-02 as they should."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from torch import nn

from configs.common.models import HeadSizes, Proposals, cascade_mask_rcnn
from configs.common.vitdet import plain_vit
from eva02_det.checkpoint.load import load_content
from eva02_det.engine.recipe import load_recipe
from eva02_det.modeling.selectors import HardNms
from eva02_det.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Published:
    """Values of detectron2's projects/ViTDet: configs and table of results."""

    width: int
    depth: int
    heads: int
    drop_path: float
    lr: float
    layer_decay: float
    exempt: bool  # norms of the backbone and absolute positions from weight decay
    steps: int
    milestones: tuple[int, int]
    box_ap: float
    mask_ap: float


COCO_STEPS, LVIS_STEPS = (163_889, 177_546), (138_889, 150_463)
PUBLISHED = {
    "coco/vitdet_b": Published(768, 12, 12, 0.1, 1e-4, 0.7, True, 184_375, COCO_STEPS, 54.0, 46.7),
    "coco/vitdet_l": Published(1024, 24, 16, 0.4, 1e-4, 0.8, True, 184_375, COCO_STEPS, 57.6, 50.0),
    "coco/vitdet_h": Published(1280, 32, 16, 0.5, 1e-4, 0.9, False, 138_281, (122_916, 133_159), 58.7, 51.0),
    "lvis/vitdet_b": Published(768, 12, 12, 0.1, 2e-4, 0.7, True, 156_250, LVIS_STEPS, 43.0, 38.9),
    "lvis/vitdet_l": Published(1024, 24, 16, 0.4, 2e-4, 0.8, True, 156_250, LVIS_STEPS, 49.2, 44.5),
    "lvis/vitdet_h": Published(1280, 32, 16, 0.4, 1e-4, 0.9, False, 156_250, LVIS_STEPS, 51.5, 46.6),
}
every_recipe = pytest.mark.parametrize("name", PUBLISHED)


@cache
def recipe(name: str) -> DictConfig:
    project, dataset, file = ("vitdet", *name.split("/")) if "vitdet" in name else ("eva02", *name.split("/"))
    return load_recipe(ROOT / "projects" / project / "configs" / dataset / f"{file}_1024.py")


@cache
def detector(name: str) -> nn.Module:
    with torch.device("meta"):
        return instantiate(recipe(name).model)


def plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=False)


def test_every_config_of_the_project_is_tested_here() -> None:
    files = (ROOT / "projects/vitdet/configs").glob("*/*.py")
    assert {f"{file.parent.name}/{file.stem}" for file in files} == {f"{name}_1024" for name in PUBLISHED}


@every_recipe
def test_the_backbone_has_the_published_shape(name: str) -> None:
    published, net = PUBLISHED[name], detector(name).backbone.net
    assert len(net.blocks) == published.depth
    every = published.depth // 4
    for index, block in enumerate(net.blocks):
        places = 64 if index % every == every - 1 else 14  # the map of 1024 px, or a window
        channels = published.width // published.heads
        assert block.attn.rel_pos_h.shape == block.attn.rel_pos_w.shape == (2 * places - 1, channels)
        assert block.norm1.eps == block.norm2.eps == 1e-6
    assert net.pos_embed.shape == (1, 197, published.width)
    assert recipe(name).model.backbone.net.drop_path_rate == published.drop_path


@pytest.mark.parametrize(("size", "millions"), [("b", 86), ("l", 303), ("h", 631)])
def test_the_number_of_parameters_follows_from_the_shape(size: str, millions: int) -> None:
    published = PUBLISHED[f"coco/vitdet_{size}"]
    width, channels = published.width, published.width // published.heads
    linear = 12 * width**2 + 9 * width  # q, k, v; projection; two layers, the hidden one four times as wide
    tables = 2 * channels * (4 * (2 * 64 - 1) + (published.depth - 4) * (2 * 14 - 1))
    expected = published.depth * (linear + 4 * width) + tables + (16 * 16 * 3 + 1) * width + 197 * width
    counted = sum(weight.numel() for weight in detector(f"coco/vitdet_{size}").backbone.net.parameters())
    assert counted == expected
    assert round(counted / 1e6) == millions


@every_recipe
def test_every_parameter_has_the_published_learning_rate_and_weight_decay(name: str) -> None:
    published, model, optimizer = PUBLISHED[name], detector(name), recipe(name).optimizer
    optimizer.params.model = model
    built = instantiate(optimizer)
    options = {id(weight): (group["lr"], group["weight_decay"]) for group in built.param_groups for weight in group["params"]}
    assert set(built.defaults["betas"]) == {0.9, 0.999}
    for key, weight in model.named_parameters():
        block = re.match(r"backbone\.net\.blocks\.(\d+)\.", key)
        layers = published.depth - int(block[1]) if block else published.depth + 1 if key.startswith("backbone.net.") else 0
        exempt = published.exempt and (key == "backbone.net.pos_embed" or bool(block and ".norm" in key))
        assert options[id(weight)] == (pytest.approx(published.lr * published.layer_decay**layers), 0.0 if exempt else 0.1), key


@every_recipe
def test_the_learning_rate_falls_at_the_published_steps(name: str) -> None:
    published, config = PUBLISHED[name], recipe(name)
    assert config.train.max_iter == published.steps
    factor = instantiate(config.lr_multiplier)
    rates = {
        step: factor(step / published.steps) for first in (0, *published.milestones) for step in (first - 1, first) if step >= 0
    }
    first, second = published.milestones
    assert rates[0] == pytest.approx(0.001)
    assert (rates[first - 1], rates[first]) == (pytest.approx(1), pytest.approx(0.1))
    assert (rates[second - 1], rates[second]) == (pytest.approx(0.1), pytest.approx(0.01))
    warmup = 187.5 if name == "coco/vitdet_h" else 250  # H on COCO keeps the share of the longer schedule
    for share in (0.25, 0.999, 1, 1.001):
        assert factor(share * warmup / published.steps) == pytest.approx(min(1, 0.001 + 0.999 * share), abs=1e-5)


@every_recipe
def test_data_precision_and_test_limits_are_those_published(name: str) -> None:
    config, lvis = recipe(name), name.startswith("lvis")
    loaders = config.dataloader
    assert loaders.train.dataset["names"] == ("lvis_v1_train" if lvis else "coco_2017_train")
    assert loaders.test.dataset["names"] == ("lvis_v1_val" if lvis else "coco_2017_val")
    assert (loaders.train.total_batch_size, loaders.train.repeat_threshold) == (64, 0.001 if lvis else None)
    for loader in (loaders.train, loaders.test):
        assert loader.mapper.augmentations.pixels == config.model.backbone.square_pad == 1024
    assert (config.train.amp.enabled, config.train.amp.precision, config.train.ddp.fp16_compression) == (True, "fp16", True)
    assert config.train.eval_period == (30_000 if lvis else 5000)
    heads = detector(name).roi_heads
    assert heads.select_boxes == (HardNms(0.5, 0.02, 300) if lvis else HardNms(0.5, 0.05, 100))
    assert (heads.rescore_masks, heads.num_classes) == (None, 1203 if lvis else 80)
    for predictor in heads.box_predictor:
        assert (predictor.use_sigmoid_ce, predictor.use_fed_loss) == (lvis, lvis)
        assert (predictor.test_score_thresh, predictor.test_topk_per_image) == ((0.02, 300) if lvis else (0.05, 100))
        assert not lvis or predictor.fed_loss_num_classes == 50


@every_recipe
def test_a_config_and_the_readme_state_the_published_results(name: str) -> None:
    published = PUBLISHED[name]
    text = (ROOT / "projects/vitdet/configs" / f"{name}_1024.py").read_text()
    assert f"box AP {published.box_ap}, mask AP {published.mask_ap}" in text
    row = f"| `{name}_1024` | {published.box_ap} | {published.mask_ap} |"
    assert row in (ROOT / "projects/vitdet/README.md").read_text()


@every_recipe
def test_the_published_weights_fill_the_backbone_but_for_relative_positions(name: str) -> None:
    timm = pytest.importorskip("timm")
    kind, model = recipe(name).train.init_checkpoint.split("/", 1)
    assert kind == "timm"
    assert timm.is_model_pretrained(model)
    with torch.device("meta"):
        shapes = {key: weight.shape for key, weight in timm.create_model(model).state_dict().items()}
    account = load_content(detector(name), {key: torch.ones(()).expand(shape) for key, shape in shapes.items()}, model)
    backbone = {key for key in detector(name).state_dict() if key.startswith("backbone.net.")}
    assert backbone - {*account.filled} == {key for key in backbone if "rel_pos" in key}
    assert {*account.dropped} == {"cls_token", "norm.weight", "norm.bias"}


@pytest.mark.parametrize("dataset", ["coco", "lvis"])
@pytest.mark.parametrize("size", ["b", "l"])
def test_the_two_sides_of_the_comparison_differ_in_the_backbone_and_the_recipe_only(dataset: str, size: str) -> None:
    ours, theirs = (plain(recipe(f"{dataset}/{family}_{size}")) for family in ("eva02", "vitdet"))
    assert ours["model"]["backbone"].pop("net") != theirs["model"]["backbone"].pop("net")
    assert ours["dataloader"]["train"].pop("total_batch_size") != theirs["dataloader"]["train"].pop("total_batch_size")
    for part in ("model", "dataloader", "protocol"):
        assert str(ours[part]) == str(theirs[part])


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"'G'.*B, L, H"):
        plain_vit("G")


def test_one_step_of_a_small_detector_reaches_every_parameter() -> None:
    net = plain_vit("B", image_size=64, window_size=3, drop_path_rate=0.0)
    net.update(embed_dim=24, depth=4, num_heads=2, global_block_indexes=[3])
    heads = HeadSizes(box_convs=1, box_width=24, mask_convs=1)
    proposals = Proposals(anchor_sizes_px=(8, 16, 32, 48, 64), pre_nms_topk=(50, 20), post_nms_topk=(30, 8))
    torch.manual_seed(0)
    model = instantiate(
        cascade_mask_rcnn(net, num_classes=4, image_size=64, channels=16, heads=heads, proposals=proposals)
    ).train()
    square = torch.zeros(1, 64, 64, dtype=torch.bool)
    square[:, 10:40, 20:50] = True
    box = Boxes(torch.tensor([[20.0, 10, 50, 40]]))
    objects = Instances((64, 64), gt_boxes=box, gt_classes=torch.tensor([2]), gt_masks=BitMasks(square))
    with EventStorage(0):
        losses = model([{"image": torch.rand(3, 64, 64) * 255, "instances": objects}])
    sum(losses.values()).backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None]
    assert all((block.attn.rel_pos_h.grad != 0).any() for block in model.backbone.net.blocks)
