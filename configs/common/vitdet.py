"""Backbone and optimiser of ViTDet (arXiv 2203.16527) with the values published in detectron2's projects/ViTDet."""

from typing import Any

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from eva02_det.modeling.plain_vit import PLAIN_VIT_SIZES, build_plain_vit
from eva02_det.modeling.sizes import spaced_global_blocks
from eva02_det.utils.errors import UserError

from .optim import adamw


def plain_vit(
    size: str = "B", *, window_size: int = 14, num_global: int = 4, drop_path_rate: float = 0.1, **options: Any
) -> DictConfig:
    """Plain ViT of size B, L or H with relative positions, `num_global` of its blocks global; options of `build_plain_vit`."""
    if size not in PLAIN_VIT_SIZES:
        raise UserError(f"plain_vit(size={size!r}) in the config: it must be one of {', '.join(PLAIN_VIT_SIZES)}")
    shape = PLAIN_VIT_SIZES[size]
    return L(build_plain_vit)(
        embed_dim=shape.embed_dim,
        depth=shape.depth,
        num_heads=shape.num_heads,
        window_size=window_size,
        global_block_indexes=list(spaced_global_blocks(shape.depth, num_global)),
        drop_path_rate=drop_path_rate,
        **options,
    )


def vitdet_adamw(lr: float, *, depth: int, layer_decay: float, exempt: bool = True) -> DictConfig:
    """AdamW with weight decay 0.1; exempt from it are the norms of the backbone and the absolute positions."""
    optimizer = adamw(lr, depth=depth, layer_decay=layer_decay)
    if exempt:
        optimizer.params.weight_decay_norm = 0.0  # of torch's norm layers; the channel norms of pyramid and heads decay
        optimizer.params.overrides = {"pos_embed": {"weight_decay": 0.0}}
    return optimizer
