"""The plain ViT of ViTDet in its three sizes, built from values that a config file can hold."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from detectron2.modeling import ViT
from torch import nn
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class PlainViTSize:
    """Width, depth and heads of one size."""

    embed_dim: int
    depth: int
    num_heads: int


PLAIN_VIT_SIZES = {
    "B": PlainViTSize(768, 12, 12),
    "L": PlainViTSize(1024, 24, 16),
    "H": PlainViTSize(1280, 32, 16),
}


def build_plain_vit(
    embed_dim: int,
    depth: int,
    num_heads: int,
    *,
    image_size: int = 1024,
    window_size: int = 14,
    global_block_indexes: Collection[int] = (2, 5, 8, 11),
    drop_path_rate: float = 0.0,
    norm_eps: float = 1e-6,
    use_rel_pos: bool = True,
    use_act_checkpoint: bool = False,
    **options: Any,
) -> ViT:
    """detectron2's `ViT` with the arguments of `TrV`; every block that is not global attends inside windows.

    image_size: side in pixels that the relative positions of global blocks are made for; other sizes stretch them.
    norm_eps: masked autoencoders are pre-trained with 1e-6, which is not torch's default. options: further arguments of `ViT`.
    """
    with _NumbersOnHost():
        return ViT(
            img_size=image_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            drop_path_rate=drop_path_rate,
            norm_layer=partial(nn.LayerNorm, eps=norm_eps),
            use_rel_pos=use_rel_pos,
            window_size=window_size,
            window_block_indexes=[index for index in range(depth) if index not in global_block_indexes],
            use_act_checkpoint=use_act_checkpoint,
            **options,
        )


class _NumbersOnHost(TorchFunctionMode):
    """Keeps `torch.linspace` on the CPU: the official class reads drop-path rates from one, which fails on the meta device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*args, **{**(kwargs or {}), **({"device": "cpu"} if func is torch.linspace else {})})
