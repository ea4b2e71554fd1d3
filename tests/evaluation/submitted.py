"""Predictions on the images of a test set, in an evaluation's folder, and the set's list of images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eva02_det.evaluation import runs
from eva02_det.evaluation.predictions import Predictions
from eva02_det.evaluation.shards import Description, ShardWriter, write_description

HEIGHT, WIDTH = 40, 64
CATEGORY_IDS = (1, 3, 7, 90)
IMAGE_IDS = (9, 12, 400, 71, 88)
TEST_DEV = "coco_2017_test-dev"


def found(images: tuple[int, ...], count: int, *, seed: int = 0, masks: bool = True, calibrated: bool = True) -> Predictions:
    """`count` detections in each image, as a detector with mean mask probabilities gives them; some scores are equal."""
    generator = np.random.default_rng([seed, *images])
    total = count * len(images)
    sides = generator.uniform(3, 20, (total, 2))
    corners = generator.uniform(0, 1, (total, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    bitmaps = torch.from_numpy(generator.random((total, HEIGHT, WIDTH)) < 0.1)
    scores = generator.random(total).round(2).astype(np.float32)
    return Predictions(
        image_ids=np.array(images),
        sizes=np.tile(np.array([[HEIGHT, WIDTH]], np.int32), (len(images), 1)),
        image=np.repeat(np.arange(len(images), dtype=np.int32), count),
        boxes=np.concatenate([corners, sides], axis=1).astype(np.float32),
        scores=scores,
        classes=generator.integers(0, len(CATEGORY_IDS), total).astype(np.int32),
        masks=runs.encode(bitmaps) if masks else None,
        mask_scores=(scores * generator.uniform(0.5, 1, total)).astype(np.float32) if calibrated else None,
    )


def image_list(folder: Path, images: tuple[int, ...] = IMAGE_IDS) -> Path:
    """The file that a test set has in the place of annotations."""
    file = folder / "image_info.json"
    content: dict[str, Any] = {
        "images": [{"id": image, "height": HEIGHT, "width": WIDTH, "file_name": f"{image}.jpg"} for image in images],
        "categories": [{"id": category, "name": f"class {category}"} for category in CATEGORY_IDS],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def leave(
    folder: Path, parts_by_rank: list[list[Predictions]], annotations: Path, dataset: str = TEST_DEV, benchmark: str = "coco"
) -> Path:
    """What an evaluator of so many ranks leaves in its folder."""
    for rank, parts in enumerate(parts_by_rank):
        writer = ShardWriter(folder, rank, len(parts_by_rank))
        writer.clear()
        for part in parts:
            writer.write(part)
        writer.finish()
    limits = [1, 10, 100] if benchmark == "coco" else [300]
    write_description(
        folder,
        Description(benchmark, dataset, str(annotations), len(parts_by_rank), limits, category_ids=list(CATEGORY_IDS)),
    )
    return folder
