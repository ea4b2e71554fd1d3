"""Rendered scenes with exact masks in COCO format: textured shapes of five classes that cover one another on cluttered grounds.

A scene depends on (seed, split, index, pixels) alone, so a larger set begins with the smaller one. Only additions, products,
quotients, square roots and integer noise reach the pixels, never a library's sine, so that every machine draws the same ones.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eva02_det.utils.coco_masks import Mask, box_around, segmentation
from eva02_det.utils.errors import UserError, run_tool
from eva02_det.utils.files import write_json

# Axes: H, W rows and columns of an image or of a window in it, N objects. Pixel (row, col) has its centre at x = col + 0.5.
Floats = NDArray[np.floating]
Window = tuple[slice, slice]

CLASSES = ("disc", "box", "triangle", "star", "ring")
SPLITS = ("train", "val")
OBJECTS = (2, 4)  # fewest and most objects a scene asks for
DIAMETER = (0.25, 0.5)  # of an object, as a share of the image's side
MIN_VISIBLE = 0.75  # an object of which less can be seen is left out of the scene altogether
MIN_SIDE_PX = 64


@dataclass(frozen=True)
class Shape:
    """One object to paint: where it is, how large, how turned and how flattened."""

    kind: str
    center: tuple[float, float]  # x, y, px
    radius: float  # of the circle around it before it is flattened, px
    flatness: float  # short axis / long axis
    turn: tuple[float, float]  # cosine and sine


@dataclass(frozen=True)
class Scene:
    """A picture and what can be seen in it."""

    image: NDArray[np.uint8]  # [H, W, 3], RGB
    kinds: tuple[str, ...]  # N names out of CLASSES
    masks: Mask  # [N, H, W], visible pixels, disjoint


def _direction(turns: float) -> tuple[float, float]:
    """Cosine and sine, rounded so that the last bit of a maths library cannot matter."""
    return round(math.cos(2 * math.pi * turns), 9), round(math.sin(2 * math.pi * turns), 9)


def _beyond_sides(u: Floats, v: Floats, count: int, inradius: float) -> Floats:
    """Distances [count, H, W] beyond the side lines of a regular polygon around 0."""
    return np.stack([u * a + v * b - inradius for a, b in (_direction(k / count) for k in range(count))])


def _unit_distance(kind: str, u: Floats, v: Floats) -> Floats:
    """How far outside (> 0) or inside (< 0) a shape of radius 1 the points (u, v) lie; its sign is exact."""
    if kind == "box":
        return np.maximum(abs(u), abs(v)) - 0.75
    if kind == "triangle":
        return _beyond_sides(u, v, 3, 0.5).max(axis=0)
    if kind == "star":  # a pentagram holds the points that are beyond at most one of its five lines
        return np.sort(_beyond_sides(u, v, 5, 0.309017), axis=0)[-2]
    from_center = np.sqrt(u * u + v * v)
    return from_center - 1 if kind == "disc" else abs(from_center - 0.73) - 0.27


def _window(center: tuple[float, float], reach: float, pixels: int) -> Window:
    """The part of the image within `reach` px of `center` along both axes."""
    col, row = (slice(max(int(c - reach), 0), min(int(c + reach) + 2, pixels)) for c in center)
    return row, col


def _centers(window: Window, origin: tuple[float, float] = (0.0, 0.0)) -> tuple[Floats, Floats]:
    """Pixel centres of a window relative to `origin`: x [1, W] and y [H, 1]."""
    row, col = window
    x = np.arange(col.start, col.stop, dtype=np.float32) + np.float32(0.5 - origin[0])
    y = np.arange(row.start, row.stop, dtype=np.float32) + np.float32(0.5 - origin[1])
    return x[None, :], y[:, None]


def _turned(x: Floats, y: Floats, turn: tuple[float, float]) -> tuple[Floats, Floats]:
    cos, sin = turn
    return x * cos + y * sin, y * cos - x * sin


def distance_to(shape: Shape, pixels: int) -> tuple[Window, Floats]:
    """The window that holds the shape and, in px, each pixel centre's distance [H, W] to its outline (inside < 0)."""
    window = _window(shape.center, shape.radius * 1.1 + 2, pixels)
    u, v = _turned(*_centers(window, shape.center), shape.turn)
    long, short = shape.radius, shape.radius * shape.flatness
    return window, _unit_distance(shape.kind, u / long, v / short) * short


def random_shape(rng: np.random.Generator, pixels: int) -> Shape:
    """Any class, anywhere, with at least its centre well inside the image."""
    low, high = DIAMETER
    radius = 0.5 * pixels * low * (high / low) ** round(rng.random(), 3)  # as many small as large ones
    x, y = (float(rng.uniform(0.6 * radius, pixels - 0.6 * radius)) for _ in range(2))
    kind = CLASSES[int(rng.integers(len(CLASSES)))]
    return Shape(kind, (x, y), round(radius, 3), float(rng.uniform(0.75, 1.0)), _direction(float(rng.random())))


def arrange(rng: np.random.Generator, pixels: int) -> list[tuple[Shape, Mask]]:
    """Shapes and their visible masks [H, W], the rearmost first.

    They are laid from front to back: each goes behind those before it, or is left out where they would hide most of it.
    So nothing unlabelled shows in the picture.
    """
    wanted = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
    covered = np.zeros((pixels, pixels), dtype=bool)
    placed: list[tuple[Shape, Mask]] = []
    for _ in range(5 * wanted):
        shape = random_shape(rng, pixels)
        window, distance = distance_to(shape, pixels)
        inside = distance <= 0
        visible = inside & ~covered[window]
        if visible.sum() >= MIN_VISIBLE * inside.sum():
            mask = np.zeros_like(covered)
            mask[window] = visible
            placed.append((shape, mask))
            covered[window] |= inside
        if len(placed) == wanted:
            break
    return placed[::-1]


# Textures: functions of the coordinates u, v (in periods) that return the share [H, W] in [0, 1] of the second colour.


def _zigzag(u: Floats) -> Floats:
    """Period 1, from 0 up to 1 and back."""
    return abs(2 * (u - np.floor(u)) - 1)


def _stripes(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    return np.clip(4 * _zigzag(u) - 1.5 + 0 * v, 0, 1)


def _dots(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    return np.clip(1.9 - 4 * (_zigzag(u) ** 2 + _zigzag(v) ** 2), 0, 1)


def _checker(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    return np.clip(16 * (_zigzag(u) - 0.5) * (_zigzag(v) - 0.5) + 0.5, 0, 1)


def _cloud(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    """Random values on a lattice that repeats every 32 cells, with straight lines between them."""
    lattice = rng.integers(0, 256, size=(32, 32)).astype(np.float32) / 255
    left, top = np.floor(u), np.floor(v)
    right_share, low_share = u - left, v - top
    i, j = top.astype(np.int32) % 32, left.astype(np.int32) % 32
    below, right = (i + 1) % 32, (j + 1) % 32
    upper = lattice[i, j] * (1 - right_share) + lattice[i, right] * right_share
    lower = lattice[below, j] * (1 - right_share) + lattice[below, right] * right_share
    return upper * (1 - low_share) + lower * low_share


def _ramp(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    return np.clip(0.5 + u / 8 + 0 * v, 0, 1)


TEXTURES: tuple[Callable[[np.random.Generator, Floats, Floats], Floats], ...] = (_stripes, _dots, _checker, _cloud, _ramp)


def _textured(rng: np.random.Generator, window: Window, scale: int, colors: Floats) -> Floats:
    """A patch [H, W, 3] that mixes two colours [2, 3] by a random texture, lit from one side."""
    x, y = _centers(window, tuple(rng.uniform(0, scale, size=2)))
    light, _ = _turned(x, y, _direction(float(rng.random())))
    period = float(rng.uniform(1 / 24, 1 / 9)) * scale
    u, v = _turned(x / period, y / period, _direction(float(rng.random())))
    share = TEXTURES[int(rng.integers(len(TEXTURES)))](rng, u, v)[..., None]
    gloss = float(rng.uniform(0, 0.5)) / scale * light[..., None]
    return (colors[0] * (1 - share) + colors[1] * share) * (1 + gloss)


def _ground_colors(rng: np.random.Generator) -> Floats:
    """Two colours [2, 3] that differ little, so that the ground's own texture stays behind the objects."""
    base = rng.uniform(50, 205, size=3)
    return np.clip(np.stack([base, base + rng.uniform(-35, 35, size=3)]), 0, 255).astype(np.float32)


def _object_colors(rng: np.random.Generator, ground: Floats) -> Floats:
    """Two colours [2, 3], any that stand out against the ground; they say nothing about the class."""
    candidates = rng.uniform(0, 255, size=(40, 3)).astype(np.float32)
    contrast = abs(candidates - ground.mean(axis=0)).sum(axis=1)
    return candidates[np.argsort(contrast < 150, kind="stable")[:2]]


def _blend(image: Floats, window: Window, opacity: Floats, color: Floats) -> None:
    image[window] += opacity[..., None] * (color - image[window])


def _paint_clutter(rng: np.random.Generator, image: Floats) -> None:
    """Strokes and specks, all thinner than any object."""
    pixels = image.shape[0]
    for _ in range(int(rng.integers(3, 13))):
        center = tuple(rng.uniform(0, pixels, size=2))
        half_length = float(rng.uniform(0, 0.2)) * pixels * float(rng.integers(0, 2))
        width = float(rng.uniform(0.004, 0.015)) * pixels
        window = _window(center, half_length + width + 2, pixels)
        along, across = _turned(*_centers(window, center), _direction(float(rng.random())))
        beyond = np.maximum(abs(along) - half_length, 0)
        opacity = np.clip(width + 0.5 - np.sqrt(beyond * beyond + across * across), 0, 1)
        _blend(image, window, opacity, rng.uniform(20, 235, size=3).astype(np.float32))


def _paint_shape(rng: np.random.Generator, image: Floats, shape: Shape, ground: Floats) -> None:
    """The shape over its own soft shadow, with smooth edges: a pixel is half covered where its centre meets the outline."""
    pixels = image.shape[0]
    throw = rng.uniform(-0.15, 0.15, size=2) * shape.radius
    shade = replace(shape, center=(shape.center[0] + float(throw[0]), shape.center[1] + float(throw[1])))
    window, distance = distance_to(shade, pixels)
    _blend(image, window, 0.4 * np.clip(0.5 - distance / 5, 0, 1), np.zeros(3, dtype=np.float32))
    window, distance = distance_to(shape, pixels)
    patch = _textured(rng, window, int(2 * shape.radius), _object_colors(rng, ground))
    _blend(image, window, np.clip(0.5 - distance, 0, 1), patch)


def _photograph(rng: np.random.Generator, image: Floats) -> NDArray[np.uint8]:
    """Light that falls off across the scene, a little blur, sensor noise. [H, W, 3] float -> uint8."""
    pixels = image.shape[0]
    along, _ = _turned(*_centers((slice(0, pixels),) * 2, (pixels / 2, pixels / 2)), _direction(float(rng.random())))
    image = image * (float(rng.uniform(0.8, 1.1)) + float(rng.uniform(0, 0.5)) / pixels * along)[..., None]
    spread = float(rng.uniform(0, 0.3)) * float(rng.integers(0, 2))
    for axis in (0, 1):
        before, after = (np.take(image, np.clip(np.arange(pixels) + step, 0, pixels - 1), axis=axis) for step in (-1, 1))
        image = image * (1 - 2 * spread) + (before + after) * spread
    grain = int(rng.integers(1, 13))
    return np.clip(image + rng.integers(-grain, grain + 1, size=image.shape, dtype=np.int16), 0, 255).astype(np.uint8)


def render_scene(seed: int, split: str, index: int, *, pixels: int = 192) -> Scene:
    """Scene `index` of a split: the same for the same arguments, whatever else is drawn."""
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    placed = arrange(rng, pixels)
    ground = _ground_colors(rng)
    image = np.asarray(_textured(rng, (slice(0, pixels), slice(0, pixels)), pixels, ground), dtype=np.float32)
    _paint_clutter(rng, image)
    for shape, _ in placed:
        _paint_shape(rng, image, shape, ground)
    kinds = tuple(shape.kind for shape, _ in placed)
    return Scene(_photograph(rng, image), kinds, np.stack([mask for _, mask in placed]))


def _write_split(folder: Path, split: str, count: int, *, pixels: int, seed: int) -> Path:
    """The pictures first and the list of them last, so that a list names only pictures that are there."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        scene = render_scene(seed, split, index, pixels=pixels)
        images.append({"id": index + 1, "file_name": f"{index + 1:06d}.jpg", "height": pixels, "width": pixels})
        Image.fromarray(scene.image).save(folder / split / images[-1]["file_name"], quality=92)
        for kind, mask in zip(scene.kinds, scene.masks):
            labels = {"image_id": index + 1, "category_id": CLASSES.index(kind) + 1, "iscrowd": 0}
            extent = {"bbox": box_around(mask), "area": int(mask.sum()), "segmentation": segmentation(mask)}
            annotations.append({"id": len(annotations) + 1, **labels, **extent})
    target = folder / "annotations" / f"instances_{split}.json"
    about = {"description": f"rendered scenes, {split}", "seed": seed, "pixels": pixels}
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    write_json(target, {"info": about, "images": images, "annotations": annotations, "categories": categories})
    return target


def write_scenes(folder: str | Path, *, train: int = 1000, val: int = 100, pixels: int = 192, seed: int = 0) -> dict[str, Path]:
    """Write `folder/{train,val}/*.jpg` and `folder/annotations/instances_{train,val}.json`; a split of 0 is left out.

    Returns the annotation file of each split. Equal arguments give equal bytes (of the pictures: under one version of Pillow).
    """
    if pixels < MIN_SIDE_PX:
        raise UserError(f"scenes of {pixels} px are too small to hold objects; ask for pixels >= {MIN_SIDE_PX}")
    if min(train, val, seed) < 0:
        raise UserError(f"train={train}, val={val} and seed={seed} must not be negative; give counts of images and a seed >= 0")
    counts = {split: count for split, count in zip(SPLITS, (train, val)) if count}
    return {split: _write_split(Path(folder), split, count, pixels=pixels, seed=seed) for split, count in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", required=True, dest="folder", help="folder to write to")
    parser.add_argument("--train", type=int, default=1000, help="number of training scenes")
    parser.add_argument("--val", type=int, default=100, help="number of held-out scenes")
    parser.add_argument("--pixels", type=int, default=192, help="side of an image")
    parser.add_argument("--seed", type=int, default=0)
    for split, path in write_scenes(**vars(parser.parse_args())).items():
        print(f"{split}: {path}")


if __name__ == "__main__":
    run_tool(main)
