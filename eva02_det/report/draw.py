"""Draws objects on pictures: translucent masks, boxes and names, one colour per class, by the library supervision."""

import colorsys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eva02_det.utils.errors import UserError

if TYPE_CHECKING:
    import supervision
    import torch

# Axes: N objects, H, W rows and columns of the picture.
SIDE_PX = (560, 960)  # the longer side of a drawn picture: small ones are enlarged so that names can be read, large ones shrunk
MASK_OPACITY = 0.45
HEADING_PX = 26
CLASS_COLORS = 1203  # as many as LVIS has classes; they repeat after that


@dataclass(frozen=True)
class Objects:
    """What is to be drawn on one picture."""

    boxes: NDArray[np.floating]  # [N, 4], x0, y0, x1, y1 in px
    class_ids: NDArray[np.integer]  # [N], choose the colour
    names: tuple[str, ...]  # N
    scores: NDArray[np.floating] | None = None  # [N], none for ground truth
    masks: NDArray[np.bool_] | None = None  # [N, H, W]

    def labels(self) -> list[str]:
        """Name, and score in per cent where there is one."""
        if self.scores is None:
            return list(self.names)
        return [f"{name} {100 * score:.0f}%" for name, score in zip(self.names, self.scores)]

    def scaled(self, size: tuple[int, int]) -> "Objects":
        """The same objects for masks resized to (width, height); boxes are expected to be resized by the caller."""
        if self.masks is None or self.masks.shape[:0:-1] == size:
            return self
        masks = [np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) for mask in self.masks]
        return replace(self, masks=np.stack(masks) if masks else np.zeros((0, size[1], size[0]), dtype=bool))


def draw(image: Image.Image, objects: Objects, *, grow: bool = True, shrink: bool = True) -> Image.Image:
    """A copy of an RGB picture with the objects on it, enlarged or shrunk to a legible size where that is allowed.

    On a picture that stays larger than that, lines and letters are larger as well.
    """
    sv = _supervision()
    factor = _legible_factor(image.size, grow=grow, shrink=shrink)
    size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
    canvas = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    resized = objects.scaled(size)
    detections = sv.Detections(
        xyxy=resized.boxes.reshape(-1, 4).astype(np.float32) * factor, class_id=resized.class_ids.astype(int), mask=resized.masks
    )
    if not len(detections):
        return canvas
    colors, text_colors = _palettes(sv)
    pen = max(max(size) / SIDE_PX[1], 1.0)
    if resized.masks is not None:
        canvas = sv.MaskAnnotator(color=colors, opacity=MASK_OPACITY).annotate(canvas, detections)
        canvas = sv.PolygonAnnotator(color=colors, thickness=round(pen)).annotate(canvas, detections)
    canvas = sv.BoxAnnotator(color=colors, thickness=round(2 * pen)).annotate(canvas, detections)
    names = sv.RichLabelAnnotator(
        color=colors, text_color=text_colors, font_size=round(14 * pen), text_padding=round(3 * pen), smart_position=True
    )
    return names.annotate(canvas, detections, labels=resized.labels())


def draw_found(
    pixels: NDArray[np.uint8],
    boxes: "torch.Tensor",
    labels: "torch.Tensor",
    names: tuple[str, ...],
    scores: "torch.Tensor",
    masks: "torch.Tensor | None" = None,
    *,
    keep_size: bool = False,
) -> Image.Image:
    """An RGB picture [H, W, 3] with a detector's output on it, see `Objects` for the shapes; small pictures are enlarged.

    keep_size: the picture keeps its size in any case, as the frame of a video must.
    """
    shown = Objects(boxes.numpy(), labels.numpy(), names, scores.numpy(), None if masks is None else masks.numpy())
    return draw(Image.fromarray(pixels), shown, grow=not keep_size, shrink=False)


def class_color(class_id: int) -> tuple[int, int, int]:
    """RGB of a class: hues a golden section apart, so that neighbours differ most; strength and brightness vary as well."""
    index = class_id % CLASS_COLORS
    hue = (0.02 + index * 0.618034) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.9, 0.6)[index // 2 % 2], (1.0, 0.72)[index // 4 % 2])
    return round(255 * red), round(255 * green), round(255 * blue)


def side_by_side(panels: Mapping[str, Image.Image]) -> Image.Image:
    """Pictures of one height in a row, each under its heading."""
    font = ImageFont.load_default(16)
    width = sum(panel.width for panel in panels.values()) + 8 * (len(panels) - 1)
    sheet = Image.new("RGB", (width, HEADING_PX + max(panel.height for panel in panels.values())), "white")
    pen, left = ImageDraw.Draw(sheet), 0
    for heading, panel in panels.items():
        pen.text((left + 4, HEADING_PX // 2), heading, fill="black", font=font, anchor="lm")
        sheet.paste(panel, (left, HEADING_PX))
        left += panel.width + 8
    return sheet


def _legible_factor(size: tuple[int, int], *, grow: bool, shrink: bool) -> float:
    low, high = SIDE_PX
    longer = max(size)
    if longer > high:
        return high / longer if shrink else 1.0
    return max(low / longer, 1.0) if grow else 1.0


def _supervision() -> "supervision":  # type: ignore[valid-type]
    """The drawing library, without its remark that OpenCV would be faster."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="OpenCV")
            import supervision as sv
    except ModuleNotFoundError as error:
        raise UserError(f"drawing needs {error.name}, which is not installed; run `pip install eva02-det[report]`") from error
    return sv


@lru_cache(maxsize=1)
def _palettes(sv: "supervision") -> tuple["supervision.ColorPalette", "supervision.ColorPalette"]:  # type: ignore[valid-type]
    """Colours of the classes, and for each whichever of black and white can be read on it."""
    colors = [sv.Color(*class_color(class_id)) for class_id in range(CLASS_COLORS)]
    luminance = [0.299 * color.r + 0.587 * color.g + 0.114 * color.b for color in colors]  # ITU-R BT.601
    texts = [sv.Color.BLACK if value > 130 else sv.Color.WHITE for value in luminance]
    return sv.ColorPalette(colors), sv.ColorPalette(texts)
