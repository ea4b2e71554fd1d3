"""Annotation files in the formats of COCO, LVIS and Objects365 for made-up ids, and smooth pictures to go with them."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HOST = "http://images.cocodataset.org"
CATEGORIES = [
    {"id": number, "name": name, "synset": f"{name}.n.01", "frequency": frequency, "image_count": 1, "instance_count": 1}
    for number, (name, frequency) in enumerate([("yak", "r"), ("can", "c"), ("cup", "f")], start=1)
]


def coco_image(number: int, folder: str = "train2017") -> dict[str, Any]:
    """As COCO 2017 writes it; for the folders of 2014 as COCO 2014 does."""
    name = f"COCO_{folder}_{number:012d}.jpg" if folder.endswith("2014") else f"{number:012d}.jpg"
    facts = {"file_name": name, "coco_url": f"{HOST}/{folder}/{name}", "height": 48, "width": 64}
    return {"id": number, **facts, "flickr_url": f"http://farm5.staticflickr.com/4/{7_000_000 + number}_0a1b2c_z.jpg"}


def lvis_image(number: int, folder: str = "val2017") -> dict[str, Any]:
    """As LVIS v1 writes it: without a file name."""
    facts = {key: value for key, value in coco_image(number, folder).items() if key != "file_name"}
    return {**facts, "neg_category_ids": [3], "not_exhaustive_category_ids": [1]}


def objects365_image(number: int, **more: Any) -> dict[str, Any]:
    """As Objects365 writes it."""
    return {"id": number, "file_name": f"images/v1/patch0/objects365_v1_{number:08d}.jpg", "height": 48, "width": 64, **more}


def objects(image_id: int, categories: Iterable[int]) -> list[dict[str, Any]]:
    """One annotation for each category."""
    common = {"image_id": image_id, "bbox": [1, 2, 3, 4], "area": 12.5, "segmentation": [[1, 2, 4, 2, 4, 6]]}
    return [{"id": 100 * image_id + place, "category_id": number, **common} for place, number in enumerate(categories)]


def write(file: Path, images: list[dict[str, Any]], annotations: Iterable[dict[str, Any]] = (), **more: Any) -> Path:
    """An annotation file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"info": {"year": 2026}, **more, "images": images, "annotations": list(annotations), "categories": CATEGORIES}
    file.write_text(json.dumps(content))
    return file


def picture(number: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Blobs of several sizes that differ from every other number's."""
    rng = np.random.default_rng(number)
    made = Image.new("RGB", size)
    for shape, part in (((5, 4), 1.0), ((11, 8), 0.5), ((29, 23), 0.35), ((53, 41), 0.2)):
        layer = Image.fromarray(rng.integers(0, 256, (*shape[::-1], 3), dtype=np.uint8))
        made = Image.blend(made, layer.resize(size, Image.Resampling.BICUBIC), part)
    return made


def encoded(number: int, kind: str = "JPEG", **options: Any) -> bytes:
    """`picture` as a file."""
    stream = io.BytesIO()
    picture(number).save(stream, kind, **options)
    return stream.getvalue()


def lvis_set(root: Path, places: dict[int, str]) -> Path:
    """`lvis_v1_val` below a data set root: {number: COCO's folder}, its pictures and one object of each category in each."""
    for number, folder in places.items():
        file = root / "coco" / folder / f"{number:012d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(number))
    annotations = [one for number in places for one in objects(number, [1, 2, 3])]
    return write(root / "lvis/lvis_v1_val.json", [lvis_image(number, folder) for number, folder in places.items()], annotations)
