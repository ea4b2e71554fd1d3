"""The augmentations that detectors train with: flip, resize by the short edge or by a jittered scale, crop."""

import sys
from collections.abc import Sequence

import numpy as np
from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    Transform,
    TransformList,
    VFlipTransform,
)
from PIL import Image

from .augmentation import Augmentation
from .transform import ResizeTransform


class RandomFlip(Augmentation):
    """Mirror left-right (or upside down) with probability `prob`."""

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False) -> None:
        if horizontal == vertical:
            raise ValueError("a flip is either horizontal or vertical; for both, put two of them in the list")
        self.prob, self.horizontal, self.vertical = prob, horizontal, vertical

    def get_transform(self, image: np.ndarray) -> Transform:
        """A flip or nothing."""
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        height, width = image.shape[:2]
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class ResizeShortestEdge(Augmentation):
    """Bring the short edge to a drawn length, less where the long edge would pass `max_size`."""

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = Image.BILINEAR,
    ) -> None:
        """short_edge_length: one length, or [low, high] for "range", or a list to pick from for "choice"; pixels."""
        if sample_style not in ("range", "choice"):
            raise AssertionError(f"sample_style is 'range' or 'choice', not {sample_style!r}")
        single = isinstance(short_edge_length, int)
        self.short_edge_length = (short_edge_length,) * 2 if single else tuple(short_edge_length)
        self.is_range = sample_style == "range"
        if self.is_range and len(self.short_edge_length) != 2:
            raise AssertionError(f"a range has two ends, got {self.short_edge_length}")
        self.max_size, self.sample_style, self.interp = max_size, sample_style, interp

    def get_transform(self, image: np.ndarray) -> Transform:
        """The resize for a drawn length; length 0 leaves the image as it is."""
        if self.is_range:
            low, high = self.short_edge_length
            length = int(np.random.randint(low, high + 1))
        else:
            length = int(np.random.choice(self.short_edge_length))
        if length == 0:
            return NoOpTransform()
        height, width = image.shape[:2]
        return ResizeTransform(height, width, *self.get_output_shape(height, width, length, self.max_size), self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """(height, width) after the resize, halves rounded up."""
        # The two limits stay two steps: one combined factor would round some sizes the other way.
        shape = np.array([oldh, oldw]) * (short_edge_length * 1.0 / min(oldh, oldw))
        if shape.max() > max_size:
            shape = shape * (max_size * 1.0 / shape.max())
        new_h, new_w = (int(side + 0.5) for side in shape)
        return new_h, new_w


class ResizeScale(Augmentation):
    """Fit the image into a target box that a random factor enlarged or shrank: the resize of large-scale jitter."""

    def __init__(
        self, min_scale: float, max_scale: float, target_height: int, target_width: int, interp: int = Image.BILINEAR
    ) -> None:
        self.min_scale, self.max_scale = min_scale, max_scale
        self.target_height, self.target_width = target_height, target_width
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        """The resize for a drawn scale, sides rounded half to even."""
        scale = np.random.uniform(self.min_scale, self.max_scale)
        shape = np.array(image.shape[:2])
        box = np.array([self.target_height, self.target_width]) * scale
        new_h, new_w = np.round(shape * (box / shape).min()).astype(int).tolist()
        return ResizeTransform(*shape.tolist(), new_h, new_w, self.interp)


class FixedSizeCrop(Augmentation):
    """Cut a window of fixed size out of the image, and pad below and right what the image cannot fill."""

    def __init__(
        self, crop_size: tuple[int, int], pad: bool = True, pad_value: float = 128.0, seg_pad_value: int = 255
    ) -> None:
        """crop_size: (height, width); with pad=False an image that is smaller stays smaller."""
        self.crop_size, self.pad = tuple(crop_size), pad
        self.pad_value, self.seg_pad_value = pad_value, seg_pad_value

    def get_transform(self, image: np.ndarray) -> Transform:
        """Crop, then pad. One random number places the window on both axes, as the published recipes were trained."""
        shape, window = np.array(image.shape[:2]), np.array(self.crop_size)
        excess = np.maximum(shape - window, 0)
        top, left = np.round(excess * np.random.uniform(0.0, 1.0)).astype(int).tolist()
        (height, width), (crop_h, crop_w) = shape.tolist(), window.tolist()
        crop = CropTransform(left, top, crop_w, crop_h, width, height)
        if not self.pad:
            return TransformList([crop])
        below, right = np.maximum(window - shape, 0).tolist()
        kept_h, kept_w = np.minimum(shape, window).tolist()
        padding = PadTransform(0, 0, right, below, kept_w, kept_h, self.pad_value, self.seg_pad_value)
        return TransformList([crop, padding])
