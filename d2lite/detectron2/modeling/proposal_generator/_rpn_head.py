"""The convolutions of a region proposal network."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.layers import Conv2d
from torch import Tensor, nn

INIT_STD = 0.01


class StandardRPNHead(nn.Module):
    """3 x 3 convolutions with ReLU shared by all levels, then a score and `box_dim` offsets for each anchor of a cell.

    `conv_dims` are their output channels, -1 for as many as come in. A single one has the key `conv`, several `conv.conv{i}`.
    """

    def __init__(self, *, in_channels: int, num_anchors: int, box_dim: int = 4, conv_dims: Sequence[int] = (-1,)) -> None:
        super().__init__()
        widths = [in_channels if dim == -1 else dim for dim in conv_dims]
        if not widths or min(widths) <= 0:
            raise ValueError(f"conv_dims must be positive or -1, got {list(conv_dims)}")
        pairs = zip([in_channels, *widths], widths)
        stack = {f"conv{i}": self._get_rpn_conv(width_in, width) for i, (width_in, width) in enumerate(pairs)}
        self.conv = stack["conv0"] if len(stack) == 1 else nn.Sequential()
        if len(stack) > 1:
            for name, layer in stack.items():
                self.conv.add_module(name, layer)
        self.objectness_logits = nn.Conv2d(widths[-1], num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(widths[-1], num_anchors * box_dim, kernel_size=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=INIT_STD)
                nn.init.zeros_(layer.bias)

    def _get_rpn_conv(self, in_channels: int, out_channels: int) -> Conv2d:
        return Conv2d(in_channels, out_channels, kernel_size=3, padding=1, activation=nn.ReLU())

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps [B, C, H, W], one a level -> scores [B, A, H, W] and offsets [B, A * 4, H, W], one a level each."""
        hidden = [self.conv(feature) for feature in features]
        return [self.objectness_logits(x) for x in hidden], [self.anchor_deltas(x) for x in hidden]
