"""Registers scenes as a data set and hands their detections to an evaluator as a detector would."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_mask

from tests.evaluation import scenes

NAME = "evaluator_test_val"
IMAGES = range(1, 7)


def register(folder: Path, truth: dict[str, Any], **more: Any) -> Path:
    file = folder / "truth.json"
    file.write_text(json.dumps(truth))
    contiguous = {category: index for index, category in enumerate(scenes.CLASSES)}
    MetadataCatalog.get(NAME).set(json_file=str(file), thing_dataset_id_to_contiguous_id=contiguous, **more)
    return file


def outputs(results: list[dict], image: int, masks: bool = True, mask_scores: bool = True) -> Instances:
    """COCO results of an image as a detector gives them."""
    mine = [one for one in results if one["image_id"] == image]
    found = Instances((scenes.SIDE, scenes.SIDE))
    boxes = torch.tensor([one["bbox"] for one in mine], dtype=torch.float64).reshape(-1, 4)
    found.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
    found.scores = torch.tensor([one["score"] for one in mine], dtype=torch.float64)
    found.pred_classes = torch.tensor([scenes.CLASSES.index(one["category_id"]) for one in mine], dtype=torch.int64)
    if masks:
        bitmaps = [coco_mask.decode(one["segmentation"]) for one in mine]
        found.pred_masks = torch.from_numpy(np.array(bitmaps, dtype=bool).reshape(-1, scenes.SIDE, scenes.SIDE))
    if mask_scores:
        found.mask_scores = torch.tensor([one["mask_score"] for one in mine], dtype=torch.float64)
    return found


def shown(evaluator: DatasetEvaluator, results: list[dict], images: Iterable[int]) -> dict:
    """What detectron2's evaluation loop returns for a detector that finds these results."""

    def detector(inputs: list[dict]) -> list[dict]:
        return [{"instances": outputs(results, record["image_id"])} for record in inputs]

    return inference_on_dataset(detector, [[{"image_id": image}] for image in images], evaluator)


def feed(evaluator: DatasetEvaluator, results: list[dict], images: Iterable[int] = IMAGES, **fields: bool) -> DatasetEvaluator:
    evaluator.reset()
    for image in images:
        evaluator.process([{"image_id": image}], [{"instances": outputs(results, image, **fields)}])
    return evaluator
