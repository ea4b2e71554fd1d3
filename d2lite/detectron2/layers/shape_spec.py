"""What a module says about the feature map it expects or makes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """Any of channels, height and width in cells, and stride in pixels of the image; None where it is not known."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
