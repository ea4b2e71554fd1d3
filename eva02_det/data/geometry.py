"""What the transforms of large-scale jitter do to an image, known before the image is decoded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from detectron2.data import transforms as T
from PIL import Image

from eva02_det.utils.errors import UserError

STEPS = ("resize", "crop")  # at most one of each, in this order; flips may stand anywhere


@dataclass(frozen=True)
class Geometry:
    """Mirror, resize, cut, pad: the four steps that any row of those transforms comes down to.

    source, size: (height, width) of the file and of the resized image. mirrored: left and right are swapped before all else.
    window: (top, left, height, width) of the resized image that is kept. padding: (left, top, right, bottom) around it.
    """

    source: tuple[int, int]
    size: tuple[int, int]
    window: tuple[int, int, int, int]
    mirrored: bool = False
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    fill: float = 0.0

    @classmethod
    def unchanged(cls, height: int, width: int) -> "Geometry":
        """An image of that size as it is."""
        return cls((height, width), (height, width), (0, 0, height, width))

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of what comes out."""
        (_, _, height, width), (left, top, right, bottom) = self.window, self.padding
        return height + top + bottom, width + left + right

    def after(self, transform: T.Transform) -> "Geometry":
        """This, followed by one more transform."""
        top, left, height, width = self.window
        if isinstance(transform, T.NoOpTransform):
            return self
        if isinstance(transform, T.HFlipTransform):
            before, above, behind, below = self.padding
            window = (top, self.size[1] - left - width, height, width)
            return replace(self, window=window, mirrored=not self.mirrored, padding=(behind, above, before, below))
        if isinstance(transform, T.ResizeTransform):
            new = (transform.new_h, transform.new_w)
            return replace(self, size=new, window=(0, 0, *new))
        if isinstance(transform, T.CropTransform):
            kept_h, kept_w = min(transform.h, height - transform.y0), min(transform.w, width - transform.x0)
            return replace(self, window=(top + transform.y0, left + transform.x0, kept_h, kept_w))
        if isinstance(transform, T.PadTransform):
            padding = (transform.x0, transform.y0, transform.x1, transform.y1)
            return replace(self, padding=padding, fill=transform.pad_value)
        raise UserError(f"{type(transform).__name__} is not a step of large-scale jitter; use CheckedMapper for it")


def draw(augmentations: Sequence[T.Augmentation], height: int, width: int) -> tuple[T.TransformList, Geometry]:
    """Draw the random numbers as detectron2 would for an image of that size, without having it. -> the transforms, their sum."""
    geometry, drawn = Geometry.unchanged(height, width), []
    for augmentation in augmentations:
        stand_in = np.broadcast_to(np.uint8(0), (*geometry.shape, 3))  # has a shape and takes no memory
        for transform in map(_at_least_one_pixel, _flat(augmentation.get_transform(stand_in))):
            geometry = geometry.after(transform)
            drawn.append(transform)
    return T.TransformList(drawn), geometry


def is_jitter(augmentations: Sequence[T.Augmentation]) -> bool:
    """Whether `draw` can stand for these augmentations: they look at sizes alone and come down to a `Geometry`."""
    order = list(map(_step, augmentations))
    steps = [step for step in order if step != "flip"]
    return steps in ([], ["resize"], ["crop"], list(STEPS))


def _step(augmentation: T.Augmentation) -> str:
    # exact types: a subclass may look at the pixels
    kind = type(augmentation)
    if kind is T.RandomFlip and augmentation.horizontal and not augmentation.vertical:
        return "flip"
    if kind in (T.ResizeScale, T.ResizeShortestEdge) and augmentation.interp == Image.BILINEAR:
        return "resize"
    return "crop" if kind is T.FixedSizeCrop else "other"


def _at_least_one_pixel(transform: T.Transform) -> T.Transform:
    """A strip of an image, shrunk far, would have no width, which detectron2 ends in an error at."""
    if isinstance(transform, T.ResizeTransform) and not (transform.new_h and transform.new_w):
        return T.ResizeTransform(transform.h, transform.w, max(transform.new_h, 1), max(transform.new_w, 1), transform.interp)
    return transform


def _flat(transform: T.Transform) -> Iterator[T.Transform]:
    if isinstance(transform, T.TransformList):
        for part in transform.transforms:
            yield from _flat(part)
    else:
        yield transform
