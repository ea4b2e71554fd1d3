"""From an encoded image to one uint8 crop: the random crop of training and the fixed one of validation."""

import io
import math
import random
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Axes: H, W rows and columns of pixels, S the side of a crop.
Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels
ATTEMPTS = 10


def decode(content: bytes) -> Image.Image:
    """An image in RGB; raises whatever the decoder raises for content that is no whole image."""
    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB")


class Crop(Protocol):
    """Makes one crop of an image with the draws of `rng`."""

    def __call__(self, image: Image.Image, side: int, rng: random.Random) -> Pixels:
        """RGB image -> uint8 [S, S, 3]."""


@dataclass(frozen=True)
class RandomCrop:
    """Horizontal flip, then a crop of random area and shape, resized bicubically (the released pre-training's transform).

    area: smallest and largest share of the image. shape: smallest and largest width / height, drawn on a log scale.
    """

    area: tuple[float, float] = (0.2, 1.0)
    shape: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def __call__(self, image: Image.Image, side: int, rng: random.Random) -> Pixels:
        """RGB image -> uint8 [S, S, 3]."""
        flipped = rng.random() < self.flip
        left, top, right, bottom = self.box(*image.size, rng)
        if flipped:  # the same pixels as flipping the whole image first, for the price of the crop
            left, right = image.width - right, image.width - left
        crop = image.crop((left, top, right, bottom))
        if flipped:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(crop.resize((side, side), Image.Resampling.BICUBIC))

    def box(self, width: int, height: int, rng: random.Random) -> Box:
        """The crop of an image: the same law and the same draws as timm's RandomResizedCropAndInterpolation."""
        for _ in range(ATTEMPTS):
            pixels = rng.uniform(*self.area) * (width * height)
            shape = math.exp(rng.uniform(math.log(self.shape[0]), math.log(self.shape[1])))
            across, down = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
            if across <= width and down <= height:
                top = rng.randint(0, height - down)
                left = rng.randint(0, width - across)
                return left, top, left + across, top + down
        return self._central(width, height)

    def _central(self, width: int, height: int) -> Box:
        """The largest central crop whose shape is allowed, for images so long that no draw fits."""
        across = min(width, round(height * max(self.shape)))
        down = min(height, round(width / min(self.shape)))
        left, top = (width - across) // 2, (height - down) // 2
        return left, top, left + across, top + down


@dataclass(frozen=True)
class CentreCrop:
    """Shorter side to 256/224 of the crop, then the central crop (the released pre-training's validation, bicubic)."""

    enlarge: float = 256 / 224
    resample: Image.Resampling = Image.Resampling.BICUBIC

    def __call__(self, image: Image.Image, side: int, rng: random.Random) -> Pixels:
        """RGB image -> uint8 [S, S, 3]; draws nothing from `rng`."""
        shorter = round(side * self.enlarge)
        width, height = image.size
        if width <= height:
            size = shorter, int(shorter * height / width)
        else:
            size = int(shorter * width / height), shorter
        left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
        return np.asarray(image.resize(size, self.resample).crop((left, top, left + side, top + side)))
