"""Feature pyramid of a plain vision transformer, and its layer-wise learning rates (ViTDet, arXiv:2203.16527)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from .backbone import Backbone

Norm = str | Callable[[int], nn.Module] | None
BLOCK_NAME = re.compile(r"\.blocks\.(\d+)\.")


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
