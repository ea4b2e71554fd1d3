"""Encoded images as pixels, or the reason why there are none: a damaged image ends no search."""

import struct
import zlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from eva02_det.contamination.fingerprints import small_image
from eva02_det.data.image_files import SourceImage
from eva02_det.utils.sources.remote import reason

Pixels = NDArray[np.uint8]  # [H, W, 3] RGB, upright as the EXIF orientation says

# what decoders raise for damaged files, which is whatever their own code stumbles over
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, EOFError),
    *(AssertionError, struct.error, zlib.error, Image.DecompressionBombError),
)
EIGHT_BITS = 255


class Unreadable(Exception):
    """An image that cannot be read or decoded. The text says why, the same each time."""


def decode(content: bytes) -> Pixels:
    """The pixels of an encoded image, those of more than 8 bits brought down to 8; Unreadable where it is damaged."""
    try:
        image = SourceImage(BytesIO(content))
        return _eight_bits(content) if image.is_deep else np.asarray(image.decode())
    except _DAMAGE as error:
        raise Unreadable(reason(error)) from error


def header(content: bytes) -> tuple[tuple[int, int], bool]:
    """(height, width) of the upright picture, and whether it has more than 8 bits; Unreadable where it is no image."""
    try:
        image = SourceImage(BytesIO(content))
        return image.size, image.is_deep
    except _DAMAGE as error:
        raise Unreadable(reason(error)) from error


def brightness(content: bytes) -> NDArray[np.uint8]:
    """[H, W], not necessarily upright and of a JPEG at a fraction of its size: what fingerprints need."""
    try:
        return small_image(content)
    except _DAMAGE as error:
        raise Unreadable(reason(error)) from error


def _eight_bits(content: bytes) -> Pixels:
    with Image.open(BytesIO(content)) as picture:
        values = np.nan_to_num(np.asarray(ImageOps.exif_transpose(picture), dtype=np.float64))
    if values.max(initial=0) > EIGHT_BITS:
        values = values / (EIGHT_BITS + 2)  # 65535 = 255 * 257
    grey = np.clip(values.round(), 0, EIGHT_BITS).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
