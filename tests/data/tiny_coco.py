"""Writes a small data set in COCO's format: three noisy JPEG images with two squares each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 64
CATEGORIES = [{"id": 3, "name": "near"}, {"id": 9, "name": "far"}]


def square(number: int, image: int, category: int, left: float, top: float, side: float) -> dict[str, Any]:
    right, bottom = left + side, top + side
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [left, top, side, side],
        "area": side * side,
        "iscrowd": 0,
        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
    }


def content(images: int = 3) -> dict[str, Any]:
    """What the annotation file says."""
    return {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": HEIGHT, "width": WIDTH} for n in range(1, images + 1)],
        "categories": CATEGORIES,
        "annotations": [
            square(10 * n + k, n, category, left, top, 12.0)
            for n in range(1, images + 1)
            for k, (category, left, top) in enumerate([(3, 4.0 + n, 6.0), (9, 30.0, 20.0 + n)])
        ],
    }


def write(root: Path, split: str, annotations: dict[str, Any], name: str = "tiny") -> Path:
    """Write `<root>/<name>/annotations/instances_<split>.json` and the images; the path of the file."""
    folder = root / name / split
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for image in annotations["images"]:
        pixels = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / image["file_name"], quality=90)
    file = root / name / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(annotations))
    return file
