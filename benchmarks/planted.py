"""Copies of pictures, changed in the ways in which copies on the web differ, and rendered pictures to hide them among.

Every picture depends on (seed, number) alone.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from projects.demo.scenes import render_scene

Rng = np.random.Generator
Change = Callable[[Image.Image, Rng], Image.Image]


def decoded(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def encoded(image: Image.Image, quality: int = 90) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _reencode(image: Image.Image, rng: Rng, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, quality))).convert("RGB")


def _resize(image: Image.Image, rng: Rng, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BILINEAR)


def _crop(image: Image.Image, rng: Rng, share: float) -> Image.Image:
    """Both sides shorter by `share`, anywhere: of the area, 1 - (1 - share) ** 2 is lost."""
    width, height = (round(side * (1 - share)) for side in image.size)
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _turn(image: Image.Image, rng: Rng, method: Image.Transpose) -> Image.Image:
    return image.transpose(method)


def _light(image: Image.Image, rng: Rng, kind: type[ImageEnhance._Enhance], factor: float) -> Image.Image:
    return kind(image).enhance(factor)


def _grey(image: Image.Image, rng: Rng) -> Image.Image:
    return image.convert("L").convert("RGB")


def _blur(image: Image.Image, rng: Rng) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(0.004 * max(image.size)))


def _color(rng: Rng) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, size=3).tolist()
    return red, green, blue


def _caption(image: Image.Image, rng: Rng) -> Image.Image:
    """Two lines of large text across the picture, the second on a bar."""
    image, size = image.copy(), max(image.width // 12, 12)
    draw = ImageDraw.Draw(image)
    top = int(rng.integers(image.height // 2))
    draw.text((image.width * 0.05, top), "WHEN THE TEST SET", fill="white", stroke_width=2, stroke_fill="black", font_size=size)
    draw.rectangle((0, image.height - 2 * size, image.width, image.height), fill=_color(rng))
    draw.text((image.width * 0.05, image.height - 1.7 * size), "IS IN THE CORPUS", fill="white", font_size=size)
    return image


def _border_inside(image: Image.Image, rng: Rng) -> Image.Image:
    """A line of 2-5 % of the longer side painted over the edges."""
    image = image.copy()
    width = round(float(rng.uniform(0.02, 0.05)) * max(image.size))
    ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline=_color(rng), width=width)
    return image


def _border_outside(image: Image.Image, rng: Rng) -> Image.Image:
    """An even frame of 2-15 % of the longer side around the picture."""
    return ImageOps.expand(image, round(float(rng.uniform(0.02, 0.15)) * max(image.size)), fill=_color(rng))


def _mosaic(image: Image.Image, rng: Rng) -> Image.Image:
    """One quarter of a mosaic; the others are rendered."""
    width, height = image.width // 2 * 2, image.height // 2 * 2
    sheet, place = Image.new("RGB", (width, height)), int(rng.integers(4))
    for quarter in range(4):
        tile = image if quarter == place else distractor(int(rng.integers(1 << 20)), seed=1)
        sheet.paste(tile.resize((width // 2, height // 2)), (quarter % 2 * width // 2, quarter // 2 * height // 2))
    return sheet


def _screenshot(image: Image.Image, rng: Rng) -> Image.Image:
    """The picture, smaller, on a page with a bar, lines of text and margins of different widths."""
    small = _resize(image, rng, float(rng.uniform(0.6, 0.9)))
    left, right, top, bottom = (int(rng.integers(10, 160)) for _ in range(4))
    page = Image.new("RGB", (left + small.width + right, 70 + top + small.height + bottom), (250, 250, 248))
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, page.width, 34), fill=(45, 52, 70))
    draw.text((12, 8), "www.example.org/pictures", fill="white", font_size=16)
    for line in range(2):
        words = "Lorem ipsum dolor sit amet consectetur"[: small.width // 9]
        draw.text((left, 40 + 16 * line), words, fill=(60, 60, 60), font_size=13)
    page.paste(small, (left, 70 + top))
    draw.text((left, 74 + top + small.height), "12 comments", fill=(90, 90, 200), font_size=13)
    return page


_TURNS = Image.Transpose
CHANGES: dict[str, Change] = {
    **{f"JPEG {quality}": partial(_reencode, quality=quality) for quality in (95, 75, 50, 30)},
    **{f"resized {factor}x": partial(_resize, factor=factor) for factor in (0.25, 0.5, 0.75, 1.5, 2.0)},
    **{f"cropped {share} %": partial(_crop, share=share / 100) for share in (5, 10, 20, 40)},
    "flipped": partial(_turn, method=_TURNS.FLIP_LEFT_RIGHT),
    "flipped upside down": partial(_turn, method=_TURNS.FLIP_TOP_BOTTOM),
    **{f"rotated {angle}": partial(_turn, method=_TURNS[f"ROTATE_{angle}"]) for angle in (90, 180, 270)},
    "flipped and rotated": partial(_turn, method=_TURNS.TRANSPOSE),
    **{f"brightness {factor}x": partial(_light, kind=ImageEnhance.Brightness, factor=factor) for factor in (0.6, 1.4)},
    **{f"contrast {factor}x": partial(_light, kind=ImageEnhance.Contrast, factor=factor) for factor in (0.5, 1.6)},
    "grey": _grey,
    "blurred": _blur,
    "text": _caption,
    "border over the edges": _border_inside,
    "border around": _border_outside,
    "mosaic quarter": _mosaic,
    "screenshot with margins": _screenshot,
}
ALL_BUT_FEW = tuple(  # recall of at least 0.99 is asked of these
    name for name in CHANGES if name.startswith(("JPEG", "resized", "flipped", "rotated", "brightness", "contrast"))
)
MOST = ("cropped 5 %", "cropped 10 %", "cropped 20 %", "border over the edges", "border around")  # and of at least 0.9 of these


@dataclass(frozen=True)
class Copy:
    """A changed copy and what it was made of."""

    change: str
    source: int  # number of the picture
    data: bytes  # JPEG


def copies(pictures: list[bytes], changes: tuple[str, ...] = tuple(CHANGES), *, seed: int = 0) -> Iterator[Copy]:
    """Every change of every picture, saved once more as a JPEG of quality 90 (the re-encoded ones as they are)."""
    for number, change in enumerate(changes):
        for source, data in enumerate(pictures):
            rng = np.random.default_rng((seed, number, source))
            image = Image.fromarray(decoded(data))
            if change.startswith("JPEG"):
                yield Copy(change, source, encoded(image, int(change.split()[1])))
            else:
                yield Copy(change, source, encoded(CHANGES[change](image, rng)))


def _scene(rng: Rng, number: int, seed: int) -> Image.Image:
    return Image.fromarray(render_scene(seed, "train", number, pixels=int(rng.choice([128, 192, 256]))).image)


def _scene_cut(rng: Rng, number: int, seed: int) -> Image.Image:
    """A scene with another shape than a square."""
    image = _scene(rng, number, seed)
    return image.crop((0, 0, image.width, int(image.height * rng.uniform(0.5, 0.9))))


def _noise(rng: Rng, number: int, seed: int) -> Image.Image:
    """Noise of one of several coarsenesses."""
    width, height = rng.integers(150, 400, size=2).tolist()
    cell = int(rng.choice([1, 2, 4, 8, 16, 32, 64]))
    grain = rng.integers(0, 256, (height // cell + 2, width // cell + 2, 3), dtype=np.uint8)
    return Image.fromarray(grain).resize((width, height), Image.Resampling.BICUBIC)


def _gradient(rng: Rng, number: int, seed: int) -> Image.Image:
    """An even slope between four colours, now and then all alike, white or black."""
    width, height = rng.integers(150, 400, size=2).tolist()
    corners = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    if rng.random() < 0.3:
        corners[:] = rng.choice([0, 255, int(rng.integers(256))])
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)


def _page(rng: Rng, number: int, seed: int) -> Image.Image:
    """A page of text with boxes on it."""
    image = Image.new("RGB", (320, 400), "white")
    draw = ImageDraw.Draw(image)
    for line in range(int(rng.integers(4, 24))):
        words = " ".join("".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(2, 9))) for _ in range(6))
        draw.text((20, 15 + 16 * line), words, fill="black", font_size=12)
    for _ in range(int(rng.integers(0, 4))):
        left, top = int(rng.integers(200)), int(rng.integers(280))
        draw.rectangle((left, top, left + int(rng.integers(20, 110)), top + int(rng.integers(20, 110))), fill=_color(rng))
    return image


def _pattern(rng: Rng, number: int, seed: int) -> Image.Image:
    """Stripes, checks or waves."""
    width, height = rng.integers(150, 400, size=2).tolist()
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    first, second = (2 * np.pi / rng.uniform(8, 80, size=2)).tolist()
    kind = int(rng.integers(3))
    rings = np.sin(first * np.hypot(x - width / 2, y - height / 3))
    wave = (np.sin(first * x), np.sin(first * x) * np.sin(second * y), rings)[kind]
    colors = rng.uniform(0, 255, (2, 3))
    share = (wave[..., None] + 1) / 2
    return Image.fromarray((colors[0] * share + colors[1] * (1 - share)).astype(np.uint8))


KINDS = (_scene, _scene, _scene, _scene_cut, _scene_cut, _noise, _gradient, _page, _pattern)


def distractor(number: int, *, seed: int = 0) -> Image.Image:
    """A picture that is a copy of nothing."""
    rng = np.random.default_rng((seed, number))
    return KINDS[int(rng.integers(len(KINDS)))](rng, number, seed)
