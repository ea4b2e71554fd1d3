"""Random ground truth and detections with what makes evaluation hard: ties, crowds, many detections, empty classes; LVIS too."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

SIDE = 96
CLASSES = (2, 5, 7, 11)  # the last never occurs


def blob(generator: np.random.Generator, box: tuple[int, int, int, int]) -> np.ndarray:
    """An ellipse in a box x, y, width, height. -> [SIDE, SIDE] uint8."""
    x, y, width, height = box
    rows, cols = np.mgrid[:SIDE, :SIDE]
    inside = ((cols + 0.5 - x - width / 2) / (width / 2)) ** 2 + ((rows + 0.5 - y - height / 2) / (height / 2)) ** 2 <= 1
    return inside.astype(np.uint8)


def runs(bitmap: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(bitmap))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def random_box(generator: np.random.Generator) -> tuple[int, int, int, int]:
    width, height = (int(n) for n in generator.choice([4, 10, 25, 40, 80], 2))
    return int(generator.integers(0, SIDE - width)), int(generator.integers(0, SIDE - height)), width, height


def ground_truth(seed: int, images: int = 6) -> dict[str, Any]:
    """Content of an annotation file, with ids from 0; some objects are crowds and the last image is empty."""
    generator = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    for image in range(1, images):
        for _ in range(int(generator.integers(1, 7))):
            box = random_box(generator)
            bitmap = blob(generator, box)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image,
                    "category_id": int(generator.choice(CLASSES[:3])),
                    "bbox": [float(n) for n in box],
                    "segmentation": runs(bitmap),
                    "area": float(bitmap.sum()),
                    "iscrowd": int(generator.random() < 0.15),
                }
            )
    return {
        "images": [{"id": n, "height": SIDE, "width": SIDE, "file_name": f"{n}.png"} for n in range(1, images + 1)],
        "categories": [{"id": category, "name": f"class {category}"} for category in CLASSES],
        "annotations": annotations,
    }


def federated_truth(seed: int, images: int = 6) -> dict[str, Any]:
    """As `ground_truth`, in LVIS's form: some classes are stated to be absent, some not annotated to the last object."""
    generator = np.random.default_rng(seed + 1000)
    truth = ground_truth(seed, images)
    for one in truth["annotations"]:
        del one["iscrowd"]
        one["id"] += 1  # LVIS numbers from 1
    for image in truth["images"]:
        there = sorted({one["category_id"] for one in truth["annotations"] if one["image_id"] == image["id"]})
        image["neg_category_ids"] = [category for category in CLASSES if category not in there and generator.random() < 0.5]
        image["not_exhaustive_category_ids"] = [category for category in there if generator.random() < 0.4]
    for category, frequency in zip(truth["categories"], "rcfc"):
        category["frequency"] = frequency
    return truth


def detections(truth: dict[str, Any], seed: int, crowded: int = 130) -> list[dict[str, Any]]:
    """COCO results near the truth and away from it, scores of one decimal, `crowded` of one class in one image."""
    generator = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []

    def add(image: int, category: int, box: tuple[int, int, int, int]) -> None:
        score = round(float(generator.random()), 1)
        found.append(
            {
                "image_id": image,
                "category_id": category,
                "bbox": [float(n) for n in box],
                "segmentation": runs(blob(generator, box)),
                "score": score,
                "mask_score": round(score * float(generator.random()), 1),
            }
        )

    for one in truth["annotations"]:
        x, y, width, height = (int(n) for n in one["bbox"])
        for _ in range(int(generator.integers(0, 4))):
            shift = generator.integers(-3, 4, 2)
            add(one["image_id"], one["category_id"], (x + int(shift[0]), y + int(shift[1]), width, height))
    for _ in range(40):
        add(int(generator.integers(1, len(truth["images"]) + 1)), int(generator.choice(CLASSES)), random_box(generator))
    for _ in range(crowded):
        add(1, CLASSES[0], random_box(generator))
    return found
