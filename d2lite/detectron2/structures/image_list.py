"""A batch of images of different sizes in one padded tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ImageList:
    """`tensor` [B, C, H, W] holds image i in its upper left corner; `image_sizes[i]` is its (height, width)."""

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = [tuple(size) for size in image_sizes]

    @property
    def device(self) -> torch.device:
        """Where the pixels live."""
        return self.tensor.device

    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        """As `Tensor.to`."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> Tensor:
        """Image `idx` without its padding, [C, h, w]."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    @staticmethod
    def from_tensors(
        tensors: list[Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> ImageList:
        """Put [C, h, w] (or [h, w]) images into one tensor, padded at the right and at the bottom.

        `padding_constraints` may name a "square_size", the side of a square canvas, and a "size_divisibility" that
        takes the place of the argument. A larger image enlarges the square rather than being cut off.
        """
        sizes = [tuple(image.shape[-2:]) for image in tensors]
        rules = padding_constraints or {}
        height, width = _canvas(sizes, rules.get("size_divisibility", size_divisibility), rules.get("square_size", 0))
        first = tensors[0]
        batch = first.new_full((len(tensors), *first.shape[:-2], height, width), pad_value)
        for slot, image, (rows, columns) in zip(batch, tensors, sizes, strict=True):
            slot[..., :rows, :columns] = image
        return ImageList(batch, sizes)


def _canvas(sizes: list[tuple[int, int]], divisor: int, square: int) -> tuple[int, int]:
    """Smallest (height, width) that holds every size and obeys the rules."""
    needed = [max(side) for side in zip(*sizes, strict=True)]
    if square > 0:
        needed = [max(square, *needed)] * 2
    step = max(divisor, 1)
    height, width = (-(-side // step) * step for side in needed)
    return height, width
