"""What every backbone offers to the rest of a detector."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod

from detectron2.layers import ShapeSpec
from torch import Tensor, nn


class Backbone(nn.Module, metaclass=ABCMeta):
    """Images to named feature maps.

    A subclass fills `_out_features` (names), `_out_feature_channels` and `_out_feature_strides` (by name), or
    overrides `output_shape`.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] -> feature maps by name."""

    @property
    def size_divisibility(self) -> int:
        """Number that must divide height and width of the input; 0 when any size will do."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Further wishes for the padding of a batch, as `ImageList.from_tensors` takes them."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every feature map."""
        channels, strides = self._out_feature_channels, self._out_feature_strides
        return {name: ShapeSpec(channels=channels[name], stride=strides[name]) for name in self._out_features}
