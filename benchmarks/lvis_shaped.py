"""Invents data sets in the shape of LVIS's and COCO's validation sets, with detections as a detector's ranks write them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from eva02_det.evaluation import runs
from eva02_det.evaluation.predictions import Predictions
from eva02_det.evaluation.shards import Description, ShardWriter, write_description
from eva02_det.utils.files import write_json

VAL_IMAGES, CLASSES = 19_809, 1_203  # of LVIS v1
FREQUENT, COMMON = 405, 461  # of its classes; the others are rare
KINDS_PER_IMAGE, OBJECTS_PER_KIND = 3.4, 3.93  # means; some kinds are drawn twice, so 12.4 objects an image, 245 000 in all
ABSENT_PER_IMAGE = 9
TAIL = 1.05  # exponent of Zipf's law of the classes' popularity
RANKS = 8


@dataclass(frozen=True)
class Shape:
    """What a set is to be like."""

    images: int
    detections: int  # per image
    classes: int = CLASSES
    masks: bool = False
    federated: bool = True


def write_set(folder: Path, shape: Shape, seed: int = 0) -> Path:
    """Annotations and the shards of RANKS ranks in `folder`; returns the annotation file."""
    generator = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, shape.classes + 1) ** TAIL
    named = generator.permutation(shape.classes)  # a class's rank in popularity -> its index
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for rank, share in enumerate(np.array_split(np.arange(shape.images), RANKS)):
        writer = ShardWriter(folder, rank, RANKS)
        parts = []
        for number in share.tolist():
            image = _image(number, generator)
            objects = _objects(image, generator, shape, popularity, named)
            if shape.federated:
                image |= _federation(objects["classes"], generator, shape.classes, popularity, named)
            images.append(image)
            annotations += _annotations(image, objects, len(annotations), shape.masks)
            parts.append(_detections(image, objects, generator, shape))
        writer.write(_joined(parts, shape.masks))
        writer.finish()
    file = folder / "annotations.json"
    write_json(file, {"images": images, "annotations": annotations, "categories": _categories(shape, named)})
    write_description(folder, _description(file, shape))
    return file


def _image(number: int, generator: np.random.Generator) -> dict[str, Any]:
    width, height = (640, 480) if generator.random() < 0.7 else (480, 640)
    return {"id": 7 * number + 3, "width": width, "height": height, "file_name": f"{number}.jpg"}


def _objects(
    image: dict[str, Any], generator: np.random.Generator, shape: Shape, popularity: NDArray[np.float64], named: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """Boxes [n, 4] x, y, width, height of all sizes, and classes [n]."""
    kinds = generator.geometric(1 / KINDS_PER_IMAGE)
    classes = np.unique(named[generator.choice(shape.classes, kinds, p=popularity / popularity.sum())])
    classes = np.repeat(classes, generator.geometric(1 / OBJECTS_PER_KIND, len(classes)))
    sides = np.exp(generator.uniform(1.5, 5.8, (len(classes), 2)))  # 4 .. 330 px
    limits = np.array([image["width"], image["height"]])
    sides = np.minimum(sides, limits - 2)
    corners = generator.random((len(classes), 2)) * (limits - sides)
    return {"boxes": np.concatenate([corners, sides], 1).round(2), "classes": classes}


def _federation(
    classes: NDArray[Any], generator: np.random.Generator, count: int, popularity: NDArray[np.float64], named: NDArray[Any]
) -> dict[str, list[int]]:
    absent = np.setdiff1d(named[generator.choice(count, ABSENT_PER_IMAGE, p=popularity / popularity.sum())], classes)
    there = np.unique(classes)
    incomplete = there[generator.random(len(there)) < 0.08]
    return {"neg_category_ids": (absent + 1).tolist(), "not_exhaustive_category_ids": (incomplete + 1).tolist()}


def _annotations(image: dict[str, Any], objects: dict[str, NDArray[Any]], first: int, masks: bool) -> list[dict[str, Any]]:
    entries = []
    for number, (box, label) in enumerate(zip(objects["boxes"].tolist(), objects["classes"].tolist()), first + 1):
        entry = {"id": number, "image_id": image["id"], "category_id": label + 1, "bbox": box, "iscrowd": 0}
        entry["area"] = round(box[2] * box[3] * np.pi / 4, 2)
        if masks:
            entry["segmentation"] = [_polygon(box)]
        entries.append(entry)
    return entries


def _detections(image: dict[str, Any], objects: dict[str, NDArray[Any]], generator: np.random.Generator, shape: Shape) -> dict:
    """A third on an object of their class, the others near objects but of any class; scores with a long tail towards 0."""
    count = shape.detections
    owner = generator.integers(0, len(objects["classes"]), count)
    boxes = objects["boxes"][owner]
    boxes = boxes + generator.normal(0, 0.12, (count, 4)) * boxes[:, [2, 3, 2, 3]]
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
    right = generator.random(count) < 0.35
    classes = np.where(right, objects["classes"][owner], generator.integers(0, shape.classes, count))
    scores = np.where(right, generator.random(count), generator.random(count) ** 3)
    found = {"image": image, "boxes": boxes.astype(np.float32), "classes": classes, "scores": scores.astype(np.float32)}
    return found | ({"masks": _ellipses(boxes, image["height"], image["width"])} if shape.masks else {})


def _joined(parts: list[dict[str, Any]], masks: bool) -> Predictions:
    counts = [len(part["scores"]) for part in parts]
    return Predictions(
        image_ids=np.array([part["image"]["id"] for part in parts]),
        sizes=np.array([(part["image"]["height"], part["image"]["width"]) for part in parts], np.int32),
        image=np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        boxes=np.concatenate([part["boxes"] for part in parts]),
        scores=np.concatenate([part["scores"] for part in parts]),
        classes=np.concatenate([part["classes"] for part in parts]).astype(np.int32),
        masks=runs.from_texts([text for part in parts for text in part["masks"]]) if masks else None,
    )


def _polygon(box: list[float]) -> list[float]:
    """An ellipse of 24 corners."""
    x, y, width, height = box
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    points = np.stack([x + width / 2 * (1 + np.cos(angle)), y + height / 2 * (1 + np.sin(angle))], 1)
    return points.round(2).ravel().tolist()


def _ellipses(boxes: NDArray[np.floating], height: int, width: int) -> list[bytes]:
    """Filled ellipses in boxes as compressed run lengths."""
    texts = []
    for x, y, w, h in boxes.tolist():
        columns = np.arange(max(0, int(x)), min(width, int(x + w) + 1))
        half = h / 2 * np.sqrt(np.maximum(0, 1 - ((columns + 0.5 - x - w / 2) / (w / 2)) ** 2))
        middle = y + h / 2
        ends = np.clip(np.round([middle - half, middle + half]), 0, height).astype(np.int64) + columns * height
        places = np.append(ends.T.ravel(), height * width)
        counts = np.diff(places, prepend=0).tolist()
        texts.append(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"])
    return texts


def _categories(shape: Shape, named: NDArray[Any]) -> list[dict[str, Any]]:
    place = np.argsort(named)
    groups = np.where(place < FREQUENT, "f", np.where(place < FREQUENT + COMMON, "c", "r")).tolist()
    return [{"id": label + 1, "name": f"class {label + 1}", "frequency": groups[label]} for label in range(shape.classes)]


def _description(file: Path, shape: Shape) -> Description:
    return Description(
        benchmark="lvis" if shape.federated else "coco",
        dataset="LVIS-shaped" if shape.federated else "COCO-shaped",
        annotation_file=str(file),
        ranks=RANKS,
        max_detections=[300] if shape.federated else [1, 10, 100],
        tasks=["segm"] if shape.masks else ["bbox"],
    )
