"""COCO-style annotation files as records."""

import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from pycocotools import mask as coco_mask

from ..catalog import DatasetCatalog, MetadataCatalog

POLYGON_MIN_NUMBERS = 6  # three corners

log = logging.getLogger(__name__)


def register_coco_instances(name: str, metadata: dict[str, Any], json_file: str, image_root: str) -> None:
    """Announce a data set in COCO's format; the file is read when the data set is asked for.

    metadata: anything more that is to be known of it.
    """
    if not isinstance(name, str):
        raise AssertionError(f"the name of a data set is a string, not {name!r}")
    DatasetCatalog.register(name, partial(load_coco_json, json_file, image_root, name))
    facts = {"json_file": json_file, "image_root": image_root, "evaluator_type": "coco", **metadata}
    MetadataCatalog.get(name).set(**facts)


def load_coco_json(
    json_file: str, image_root: str, dataset_name: str | None = None, extra_annotation_keys: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """The images of an annotation file, by id, each with file_name, height, width, image_id and annotations.

    dataset_name: where to note thing_classes and thing_dataset_id_to_contiguous_id; category ids are then contiguous from
    0, else they stay as in the file. extra_annotation_keys: more to keep of each annotation. A file without annotations
    (a test set) gives records with none.
    """
    with PathManager.open(json_file) as stream:
        content = json.load(stream)
    if not isinstance(content, dict):
        raise AssertionError(f"{json_file} holds a {type(content).__name__}, not a COCO annotation file")
    to_contiguous = _note_categories(content.get("categories", []), dataset_name) if dataset_name is not None else None
    by_image = _group_by_image(content.get("annotations", []), json_file)
    keys = ("iscrowd", "bbox", "category_id", *(extra_annotation_keys or ()))
    records, skipped = [], Counter[str]()
    for image in sorted(content["images"], key=_by_id):
        record: dict[str, Any] = {"file_name": os.path.join(image_root, image["file_name"])}
        record.update(height=image["height"], width=image["width"], image_id=image["id"])
        annotations = (_annotation(raw, keys, to_contiguous, skipped) for raw in by_image.get(image["id"], ()))
        record["annotations"] = [annotation for annotation in annotations if annotation is not None]
        records.append(record)
    if skipped:
        log.warning("%s: %d annotations have no polygon of three corners or more and are left out", json_file, skipped.total())
    log.info("%d images in %s", len(records), json_file)
    return records


def _by_id(entry: dict[str, Any]) -> int:
    return entry["id"]


def _note_categories(categories: list[dict[str, Any]], dataset_name: str) -> dict[int, int]:
    """Put names and numbering of the classes into the metadata. -> {category id in the file: class index}."""
    ordered = sorted(categories, key=_by_id)
    to_contiguous = {category["id"]: index for index, category in enumerate(ordered)}
    MetadataCatalog.get(dataset_name).set(
        thing_classes=[category["name"] for category in ordered], thing_dataset_id_to_contiguous_id=to_contiguous
    )
    return to_contiguous


def _group_by_image(annotations: list[dict[str, Any]], json_file: str) -> dict[int, list[dict[str, Any]]]:
    """{image id: its annotations}, which must have ids of their own."""
    ids = {annotation["id"] for annotation in annotations}
    if len(ids) != len(annotations):
        raise AssertionError(f"{json_file}: {len(annotations) - len(ids)} annotations share their id with another one")
    groups = defaultdict(list)
    for annotation in annotations:
        groups[annotation["image_id"]].append(annotation)
    return groups


def _annotation(
    raw: dict[str, Any], keys: Sequence[str], to_contiguous: dict[int, int] | None, skipped: Counter[str]
) -> dict[str, Any] | None:
    """One annotation as a record; None (and a count) where it has polygons and none of them is valid."""
    annotation = {key: raw[key] for key in keys if key in raw}
    if "bbox" in annotation and len(annotation["bbox"]) == 0:
        raise ValueError(f"annotation {raw['id']} of image {raw['image_id']} has an empty box")
    if raw.get("segmentation"):
        annotation["segmentation"] = _segmentation(raw["segmentation"])
        if not annotation["segmentation"]:
            skipped["polygons"] += 1
            return None
    annotation["bbox_mode"] = BoxMode.XYWH_ABS
    if to_contiguous is not None:
        if raw["category_id"] not in to_contiguous:
            raise KeyError(f"annotation {raw['id']} is of category {raw['category_id']}, which the file does not define")
        annotation["category_id"] = to_contiguous[raw["category_id"]]
    return annotation


def _segmentation(raw: "dict | list") -> "dict | list":
    """Run lengths, compressed; or the polygons that have at least three corners."""
    if isinstance(raw, dict):
        return coco_mask.frPyObjects(raw, *raw["size"]) if isinstance(raw["counts"], list) else raw
    return [polygon for polygon in raw if len(polygon) >= POLYGON_MIN_NUMBERS and len(polygon) % 2 == 0]
