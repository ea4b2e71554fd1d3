"""Detectors of a few thousand weights, and what their runs save."""

from typing import Any

import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from torch import Tensor, nn

from configs.common.models import HeadSizes, cascade_mask_rcnn
from eva02_det.checkpoint.rotary import stored_table
from eva02_det.layers.patch_embed import Positions
from eva02_det.modeling.vit import TrV

SHAPE = {"embed_dim": 32, "depth": 4, "num_heads": 2, "global_block_indexes": [1, 3]}


def small_detector(
    *, classes: int = 5, masks: bool = True, window: int = 4, positions: Positions | None = None, **options: Any
) -> nn.Module:
    """Width 32, four blocks, heads of 16 channels; random weights, norms and biases included."""
    net = L(TrV)(**SHAPE, window_size=window, positions=positions or Positions(), **options)
    tree = cascade_mask_rcnn(net, num_classes=classes, image_size=128, channels=8, heads=HeadSizes(1, 12, 1), masks=masks)
    return randomise(instantiate(tree))


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """So that no two tensors are equal and no bias is zero."""
    for weight in model.parameters():
        weight.copy_(torch.randn_like(weight) * 0.1)
    return model


def as_released(model: nn.Module, *, image: int = 128, window: int = 4) -> dict[str, Tensor]:
    """The state dict with the rotary tables that the authors' model saves beside its weights."""
    net = model.backbone.net
    channels = net.head_dim
    tables = {"rope_win": window, "rope_glb": image // 16}
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    for name, side in tables.items():
        for function in ("cos", "sin"):
            weights[f"backbone.net.{name}.freqs_{function}"] = stored_table(side, channels, function).float()
    for index in range(len(net.blocks)):
        name = "rope_glb" if index in {1, 3} else "rope_win"
        for function in ("cos", "sin"):
            weights[f"backbone.net.blocks.{index}.attn.rope.freqs_{function}"] = weights[f"backbone.net.{name}.freqs_{function}"]
    return weights


def small_backbone(*, patch_size: int = 16, positions: Positions | None = None, **options: Any) -> TrV:
    """The backbone of the small detector, with the patches and positions of some pre-training."""
    return randomise(TrV(**SHAPE, window_size=4, patch_size=patch_size, positions=positions or Positions(), **options))


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same(model: nn.Module, weights: dict[str, Tensor]) -> None:
    found = model.state_dict()
    assert found.keys() == weights.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, weights[key], rtol=0, atol=0, msg=key)
