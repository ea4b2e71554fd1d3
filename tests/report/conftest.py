"""A data set of two small pictures, written as a user would have it."""

import json
from pathlib import Path

import pytest
from PIL import Image

SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]


def annotation(number: int, image_id: int, category_id: int, **more: object) -> dict:
    base = {"bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0, "segmentation": SQUARE}
    return {"id": number, "image_id": image_id, "category_id": category_id, **base, **more}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Folder with annotations.json and images/: category ids 3 and 7, a hostile name, a crowd."""
    (tmp_path / "images").mkdir()
    for name in ("one.png", "two.png"):
        Image.new("RGB", (64, 48), "gray").save(tmp_path / "images" / name)
    content = {
        "images": [
            {"id": 5, "file_name": "one.png", "width": 64, "height": 48},
            {"id": 9, "file_name": "two.png", "width": 64, "height": 48},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "<b>dog</b>"}],
        "annotations": [
            annotation(1, 5, 3),
            annotation(2, 5, 7, bbox=[0, 0, 64, 48], segmentation={"size": [48, 64], "counts": [0, 48 * 64]}, iscrowd=1),
            annotation(3, 9, 7),
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def results() -> dict[int, list[dict]]:
    """Detections on both pictures, by image id; the second of the first picture scores below one half."""
    return {
        5: [
            {"image_id": 5, "category_id": 3, "bbox": [11, 11, 20, 20], "segmentation": SQUARE, "score": 0.6},
            {"image_id": 5, "category_id": 7, "bbox": [0, 0, 9, 9], "score": 0.4},
            {"image_id": 5, "category_id": 7, "bbox": [30, 30, 9, 9], "score": 0.9},
        ],
        9: [{"image_id": 9, "category_id": 7, "bbox": [10, 10, 20, 20], "score": 0.8}],
    }
