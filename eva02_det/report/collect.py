"""Gathers what there is to draw: the records of a data set, its ground truth, a detector's results in COCO's format."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from numpy.typing import NDArray
from PIL import Image, ImageOps

from eva02_det.data.registration import load_dataset, register_coco_style
from eva02_det.report.draw import Objects
from eva02_det.utils.coco_masks import box_around, mask_of
from eva02_det.utils.errors import UserError

Record = Mapping[str, Any]  # one image as detectron2's catalogue describes it
Result = Mapping[str, Any]  # one detection as COCO's result files describe it


@dataclass(frozen=True)
class Source:
    """A data set to draw from."""

    name: str
    records: tuple[Record, ...]
    class_names: tuple[str, ...]
    class_of_category: Mapping[int, int]  # id in the files -> position in class_names

    def has_ground_truth(self) -> bool:
        """Whether any object is annotated; a test set's annotations are kept back."""
        return any(record.get("annotations") for record in self.records)

    def spread(self, limit: int, among: Iterable[int | str] | None = None) -> list[Record]:
        """At most `limit` records, evenly spaced over those whose image id is `among` the given ones (None: over all)."""
        wanted = None if among is None else set(among)
        records = [r for r in self.records if wanted is None or r["image_id"] in wanted]
        count = min(limit, len(records))
        return [records[index * len(records) // count] for index in range(count)]


def registered(name: str) -> Source:
    """The data set called `name`: COCO, one that was registered, or one that lies below DETECTRON2_DATASETS."""
    records = load_dataset(name, filter_empty=False)
    metadata = MetadataCatalog.get(name)
    class_names = tuple(metadata.get("thing_classes", ()))
    identity = {position: position for position in range(len(class_names))}
    return Source(name, tuple(records), class_names, metadata.get("thing_dataset_id_to_contiguous_id", identity))


def coco_files(annotations: str | Path, images: str | Path) -> Source:
    """The data set of a COCO-style annotation file whose pictures lie in the folder `images`."""
    name = str(Path(annotations).resolve())
    register_coco_style(name, name, Path(images).resolve())
    return replace(registered(name), name=Path(annotations).name)


def read_results(path: str | Path) -> dict[int | str, list[Result]]:
    """A COCO result file, by image id."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"result file {path} does not exist; give the one that the evaluation wrote") from error
    except (OSError, ValueError) as error:
        raise UserError(f"result file {path} cannot be read as JSON: {error}") from error
    if not isinstance(content, list):
        raise UserError(f"{path} is not a COCO result file: it must hold a list of detections")
    by_image: dict[int | str, list[Result]] = {}
    for position, result in enumerate(content):
        complete = isinstance(result, dict) and {"image_id", "category_id", "score"} <= set(result)
        if not complete or not {"bbox", "segmentation"} & set(result):
            raise UserError(f"detection {position} of {path} lacks image_id, category_id, score, or bbox and segmentation")
        by_image.setdefault(result["image_id"], []).append(result)
    return by_image


def read_image(record: Record) -> Image.Image:
    """The picture of a record, RGB, upright."""
    path = record["file_name"]
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError as error:
        raise UserError(f"picture {path} does not exist; check the folder of pictures") from error
    except OSError as error:
        raise UserError(f"picture {path} cannot be decoded ({error}); copy it anew") from error


def ground_truth(source: Source, record: Record, size: tuple[int, int]) -> Objects:
    """The annotated objects of a picture of (width, height) px; crowds are named so."""
    annotations = record.get("annotations", [])
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    names = tuple(source.class_names[a["category_id"]] + (" (crowd)" if a.get("iscrowd") else "") for a in annotations)
    stored = [a.get("segmentation") for a in annotations]
    return Objects(_boxes(boxes), _class_ids([a["category_id"] for a in annotations]), names, masks=_masks(stored, size))


def detections(source: Source, results: Sequence[Result], size: tuple[int, int], *, score_threshold: float = 0.5) -> Objects:
    """The results for a picture of (width, height) px that score at least the threshold, the surest first."""
    kept = sorted((r for r in results if r["score"] >= score_threshold), key=_score, reverse=True)
    unknown = {r["category_id"] for r in kept} - set(source.class_of_category)
    if unknown:
        raise UserError(f"category {min(unknown)} of the results is not in {source.name}; give the data set they were made on")
    classes = [source.class_of_category[r["category_id"]] for r in kept]
    masks = _masks([r.get("segmentation") for r in kept], size)
    boxes = [_corners(r["bbox"] if "bbox" in r else box_around(masks[row])) for row, r in enumerate(kept)]
    scores = np.array([r["score"] for r in kept], dtype=np.float64)
    return Objects(_boxes(boxes), _class_ids(classes), tuple(source.class_names[c] for c in classes), scores, masks)


def _score(result: Result) -> float:
    return float(result["score"])


def _corners(box: Sequence[float]) -> list[float]:
    """x, y, width, height -> x0, y0, x1, y1."""
    x, y, width, height = (float(value) for value in box)
    return [x, y, x + width, y + height]


def _boxes(boxes: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def _class_ids(class_ids: Sequence[int]) -> NDArray[np.int64]:
    return np.array(class_ids, dtype=np.int64)


def _masks(stored: Sequence[Any], size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Masks [N, H, W]; an object without one gets an empty one, and None stands for no masks at all."""
    if not any(stored):
        return None
    width, height = size
    empty = np.zeros((height, width), dtype=bool)
    masks = [mask_of(segmentation, height, width) if segmentation else empty for segmentation in stored]
    wrong = [mask.shape for mask in masks if mask.shape != empty.shape]
    if wrong:
        found = f"{wrong[0][1]} x {wrong[0][0]}"
        raise UserError(f"a mask of {found} px belongs to a picture of {width} x {height} px; check the files")
    return np.stack(masks)
