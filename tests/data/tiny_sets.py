"""Writes small data sets in the layouts of LVIS v1 and Objects365 v2, from the noise images of `tiny_coco`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.data.tiny_coco import HEIGHT, WIDTH, square

LVIS_CATEGORIES = [
    {"id": 2, "name": "zebra", "synset": "zebra.n.01", "frequency": "f", "image_count": 9, "instance_count": 20},
    {"id": 1, "name": "aerosol_can", "synset": "aerosol.n.02", "frequency": "r", "image_count": 4, "instance_count": 4},
    {"id": 5, "name": "yak", "synset": "yak.n.02", "frequency": "c", "image_count": 1, "instance_count": 1},
]


def image(path: Path) -> None:
    """A JPEG of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=90)


def lvis_content(places: list[str]) -> dict[str, Any]:
    """One image, with a zebra and an aerosol can, for each of "train2017/1.jpg"...: the number is its id."""
    numbers = {int(Path(place).stem): place for place in places}
    images = [
        {
            "id": number,
            "coco_url": f"http://images.cocodataset.org/{place}",
            "height": HEIGHT,
            "width": WIDTH,
            "neg_category_ids": [5],
            "not_exhaustive_category_ids": [],
        }
        for number, place in numbers.items()
    ]
    annotations = [
        {key: value for key, value in square(10 * number + kind, number, kind, 4.0 * kind, 6.0, 12.0).items() if key != "iscrowd"}
        for number in numbers
        for kind in (1, 2)
    ]
    return {"info": {}, "images": images, "annotations": annotations, "categories": LVIS_CATEGORIES}


def lvis(root: Path, split: str, places: list[str], content: dict[str, Any] | None = None) -> Path:
    """Write `lvis/lvis_v1_<split>.json` and the images below `coco/`; the path of the file."""
    for place in places:
        image(root / "coco" / place)
    file = root / "lvis" / f"lvis_v1_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content or lvis_content(places)))
    return file


def objects365(root: Path, split: str, names: list[str], *, folder: str, images: str) -> Path:
    """Write Objects365's annotations for `images/v1/patch0/<name>`, and those images to `<images>/<name>`."""
    for name in names:
        image(root / folder / images / name)
    content = {
        "images": [
            {"id": n, "file_name": f"images/v1/patch0/{name}", "height": HEIGHT, "width": WIDTH}
            for n, name in enumerate(names, 1)
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 7, "bbox": [5.0, 6, 20, 20], "area": 400, "iscrowd": 0, "isfake": 0}
            for n in range(1, len(names) + 1)
        ],
        "categories": [{"id": 9, "name": "Bakset"}, {"id": 7, "name": "Table Tennis "}],
    }
    file = root / folder / "annotations" / f"zhiyuan_objv2_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file
