"""Small pictures inside a page."""

import base64
import io
from pathlib import Path

from PIL import Image, ImageOps

SIDE_PX = 300  # more than the page shows, for dense screens
QUALITY = 65


def thumbnail(source: Path | bytes | None, side_px: int = SIDE_PX) -> str | None:
    """A data URI of the picture as a JPEG of at most side_px; None where there is no picture or it cannot be read.

    It stands upright, as the file's orientation says and as it was compared.
    """
    if source is None:
        return None
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            picture.draft("RGB", (side_px, side_px))  # a JPEG is decoded no larger than needed
            small = ImageOps.exif_transpose(picture).convert("RGB")
            small.thumbnail((side_px, side_px))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
