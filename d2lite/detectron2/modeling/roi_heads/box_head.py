"""Convolutions and linear layers on the pooled features of a box."""

from __future__ import annotations

import math
from collections.abc import Callable

from detectron2.layers import Conv2d, ShapeSpec, get_norm
from fvcore.nn.weight_init import c2_msra_fill, c2_xavier_fill
from torch import Tensor, nn


class FastRCNNConvFCHead(nn.Sequential):
    """3 x 3 convolutions (`conv1`, ...; norm, ReLU), then linear layers (`fc1`, ...; ReLU). [R, C, h, w] -> [R, D]."""

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: list[int],
        fc_dims: list[int],
        conv_norm: str | Callable[[int], nn.Module] = "",
    ) -> None:
        super().__init__()
        if not (len(conv_dims) or len(fc_dims)):
            raise AssertionError("a box head needs a convolution or a linear layer")
        channels = input_shape.channels
        for number, width in enumerate(conv_dims, start=1):
            layer = _convolution(channels, width, conv_norm)
            self.add_module(f"conv{number}", layer)
            channels = width
        self._output_size: tuple[int, ...] = (channels, input_shape.height, input_shape.width)
        for number, width in enumerate(fc_dims, start=1):
            if number == 1:
                self.add_module("flatten", nn.Flatten())
            linear = nn.Linear(math.prod(self._output_size), width)
            c2_xavier_fill(linear)
            self.add_module(f"fc{number}", linear)
            self.add_module(f"fc_relu{number}", nn.ReLU())
            self._output_size = (width,)

    @property
    def output_shape(self) -> ShapeSpec:
        """Channels and, without linear layers, the unchanged height and width."""
        return ShapeSpec(*self._output_size)

    def forward(self, x: Tensor) -> Tensor:
        """[R, C, h, w] -> [R, D], or [R, C', h, w] when there are no linear layers."""
        return super().forward(x)


def _convolution(channels: int, width: int, norm: str | Callable[[int], nn.Module]) -> Conv2d:
    """3 x 3, He initialisation; the norm makes the bias superfluous."""
    layer = Conv2d(
        channels, width, kernel_size=3, padding=1, bias=not norm, norm=get_norm(norm, width), activation=nn.ReLU()
    )
    c2_msra_fill(layer)
    return layer
