"""A plain vision transformer, the feature pyramid on it, and its layer-wise learning rates (ViTDet, arXiv:2203.16527)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ._plain_block import ConvBottleneck, FeedForward, PatchEmbed, PlainBlock
from ._relative_attention import RelativeAttention
from .backbone import Backbone

Norm = str | Callable[[int], nn.Module] | None
BLOCK_NAME = re.compile(r"\.blocks\.(\d+)\.")


class ViT(Backbone):
    """Plain vision transformer with one map of stride `patch_size`, called `out_feature`; no norm after the last block.

    Blocks in `window_block_indexes` attend inside windows of `window_size` patches, the others everywhere; those in
    `residual_block_indexes` end in convolutions. use_abs_pos: a table of positions, learnt on images of
    `pretrain_img_size`, with a row for a class token in front or not. use_rel_pos: relative positions in every block,
    for windows and for images of `img_size`. Images of another size, square or not, stretch all these tables.
    use_act_checkpoint: compute each block again in the backward pass instead of keeping what it computed.
    """

    def __init__(
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        use_abs_pos: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        window_block_indexes: Collection[int] = (),
        residual_block_indexes: Collection[int] = (),
        use_act_checkpoint: bool = False,
        pretrain_img_size: int = 224,
        pretrain_use_cls_token: bool = True,
        out_feature: str = "last_feat",
    ) -> None:
        super().__init__()
        self.pretrain_use_cls_token = pretrain_use_cls_token
        self.use_act_checkpoint = use_act_checkpoint
        learnt = (pretrain_img_size // patch_size) ** 2 + pretrain_use_cls_token
        self.pos_embed = nn.Parameter(torch.zeros(1, learnt, embed_dim)) if use_abs_pos else None
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.blocks = nn.ModuleList()
        for index in range(depth):
            window = window_size if index in window_block_indexes else 0
            side = window or img_size // patch_size
            attention = RelativeAttention(
                embed_dim,
                num_heads,
                qkv_bias=qkv_bias,
                relative_to=(side, side) if use_rel_pos else None,
                zero_init=rel_pos_zero_init,
            )
            block = PlainBlock(
                embed_dim,
                attention,
                FeedForward(embed_dim, int(embed_dim * mlp_ratio), act_layer),
                norm_layer=norm_layer,
                drop_path=drop_path_rate * index / max(depth - 1, 1),
                window=window,
                residual=ConvBottleneck(embed_dim, act_layer) if index in residual_block_indexes else None,
            )
            self.blocks.append(block)
        self._out_features = [out_feature]
        self._out_feature_channels = {out_feature: embed_dim}
        self._out_feature_strides = {out_feature: patch_size}
        self._initialise()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[B, in_chans, height, width] -> {out_feature: [B, embed_dim, height / patch_size, width / patch_size]}."""
        tokens = self.patch_embed(x)
        if self.pos_embed is not None:
            tokens = tokens + self._positions((tokens.shape[1], tokens.shape[2]))
        for block in self.blocks:
            if self.use_act_checkpoint and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return {self._out_features[0]: tokens.permute(0, 3, 1, 2)}

    def _positions(self, size: tuple[int, int]) -> Tensor:
        """[1, rows, columns, embed_dim], stretched bicubically from the square it was learnt on."""
        table = self.pos_embed[:, 1:] if self.pretrain_use_cls_token else self.pos_embed
        side = int(table.shape[1] ** 0.5)
        square = table.unflatten(1, (side, side))
        if size == (side, side):
            return square
        return F.interpolate(square.permute(0, 3, 1, 2), size=size, mode="bicubic", align_corners=False).permute(0, 2, 3, 1)

    def _initialise(self) -> None:
        """Linear weights and absolute positions: normal(0.02), truncated; biases 0."""
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class SimpleFeaturePyramid(Backbone):
    """Levels p2, p3, ... made independently of each other from one map of the backbone `net`.

    `scale_factors` (4, 2, 1, 1/2) times the size of that map give the levels, branch `simfp_{k}` makes stride 2^k;
    `top_block` adds coarser levels. `square_pad` > 0 asks for square batches of that side.
    """

    def __init__(
        self,
        net: Backbone,
        in_feature: str,
        out_channels: int,
        scale_factors: Sequence[float],
        top_block: nn.Module | None = None,
        norm: Norm = "LN",
        square_pad: int = 0,
    ) -> None:
        super().__init__()
        self.scale_factors = scale_factors
        source = net.output_shape()[in_feature]
        levels = [_level(source.stride / scale) for scale in scale_factors]
        if any(fine + 1 != coarse for fine, coarse in pairwise(levels)):
            raise AssertionError(f"scale factors {list(scale_factors)} leave a gap between strides of the pyramid")
        self.stages = []
        for level, scale in zip(levels, scale_factors, strict=True):
            branch = nn.Sequential(*_rescale(source.channels, scale, norm), *_project(source.channels, scale, out_channels, norm))
            self.add_module(f"simfp_{level}", branch)
            self.stages.append(branch)
        self.net = net
        self.in_feature = in_feature
        self.top_block = top_block
        extra = range(top_block.num_levels if top_block is not None else 0)
        levels += [levels[-1] + 1 + step for step in extra]
        self._out_feature_strides = {f"p{level}": 2**level for level in levels}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility = 2 ** levels[len(scale_factors) - 1]
        self._square_pad = square_pad

    @property
    def padding_constraints(self) -> dict[str, int]:
        """The first key is spelt as the published API spells it, so only the square has an effect."""
        return {"size_divisiblity": self._size_divisibility, "square_size": self._square_pad}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] -> {"p2": [B, C, H / 4, W / 4], ...}."""
        bottom_up = self.net(x)
        source = bottom_up[self.in_feature]
        # RoIAlign reads this layout; changed here once rather than by each of its many calls
        maps = dict(zip(self._out_features, (branch(source).contiguous() for branch in self.stages)))
        if self.top_block is not None:
            wanted = self.top_block.in_feature
            tops = self.top_block(bottom_up[wanted] if wanted in bottom_up else maps[wanted])
            maps.update(zip(self._out_features[len(self.stages) :], tops))
        return maps


def _level(stride: float) -> int:
    """k of stride 2^k."""
    level = int(stride).bit_length() - 1
    if stride != 2**level:
        raise AssertionError(f"stride {stride} of a pyramid level is no power of two")
    return level


def _rescale(width: int, scale: float, norm: Norm) -> list[nn.Module]:
    """Layers that change the size of a map of `width` channels by `scale`; enlarging halves the channels each time."""
    if scale == 0.5:
        return [nn.MaxPool2d(kernel_size=2, stride=2)]
    if scale not in (1.0, 2.0, 4.0):
        raise NotImplementedError(f"scale_factor={scale} is not supported, only 4, 2, 1 and 0.5")
    layers: list[nn.Module] = []
    while scale > 1:
        if layers:
            layers += [get_norm(norm, width) or nn.Identity(), nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2))
        width, scale = width // 2, scale / 2
    return layers


def _project(width: int, scale: float, out_channels: int, norm: Norm) -> list[nn.Module]:
    """1 x 1 convolution to `out_channels` and a 3 x 3 one, each followed by the norm (and then without bias)."""
    channels = width // int(max(scale, 1))
    bias = norm == ""
    return [
        Conv2d(channels, out_channels, kernel_size=1, bias=bias, norm=get_norm(norm, out_channels)),
        Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=bias, norm=get_norm(norm, out_channels)),
    ]


def get_vit_lr_decay_rate(name: str, lr_decay_rate: float = 1.0, num_layers: int = 12) -> float:
    """Learning-rate multiplier of the parameter `name`: each layer below the top learns slower by `lr_decay_rate`.

    Embeddings count as layer 0, block i as layer i + 1, all that is not in the backbone as the layer after the last.
    """
    depth = num_layers + 1
    if name.startswith("backbone"):
        block = BLOCK_NAME.search(name)
        if ".pos_embed" in name or ".patch_embed" in name:
            depth = 0
        elif block is not None and ".residual." not in name:
            depth = int(block[1]) + 1
    return lr_decay_rate ** (num_layers + 1 - depth)
