"""Looks through the records of a data set before anything is trained on them."""

import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from eva02_det.data.image_files import absent_images
from eva02_det.utils.errors import UserError

Record = dict[str, Any]
Annotation = dict[str, Any]

log = logging.getLogger(__name__)


def check_records(records: list[Record], annotation_files: Iterable[str]) -> list[Record]:
    """Refuse missing images and numbers that are none; drop boxes that show nothing. -> the same records, changed in place.

    annotation_files: where the records come from, for the message.
    """
    require_images(record["file_name"] for record in records)
    require_finite(records, annotation_files)
    drop_empty_boxes(records)
    return records


def require_images(files: Iterable[str]) -> None:
    """UserError unless all files exist."""
    missing = absent_images(files)
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"image {missing[0]} does not exist{others}; complete the data set, or take it out of the annotations")


def require_finite(records: Iterable[Record], annotation_files: Iterable[str]) -> None:
    """UserError where a box or a polygon holds NaN or infinity."""
    for record in records:
        if not all(map(_is_finite, record.get("annotations", ()))):
            raise UserError(
                f"{_whereabouts(record['image_id'], annotation_files)} of image {record['file_name']} has a coordinate that is "
                "not a finite number; correct or remove that annotation"
            )


def drop_empty_boxes(records: list[Record]) -> int:
    """Take out annotations whose box has no area or lies wholly outside its image. -> how many."""
    owners = [record for record in records for _ in record.get("annotations", ())]
    annotations = [annotation for record in records for annotation in record.get("annotations", ())]
    if not annotations:
        return 0
    corners = box_corners(annotations)
    sizes = np.array([(record["width"], record["height"]) for record in owners], dtype=float)
    visible = np.minimum(corners[:, 2:], sizes) - np.maximum(corners[:, :2], 0)
    bad = np.flatnonzero((visible <= 0).any(axis=1))
    if len(bad) == 0:
        return 0
    unwanted = {id(annotations[index]) for index in bad}
    for record in {id(owners[index]): owners[index] for index in bad}.values():
        record["annotations"] = [one for one in record["annotations"] if id(one) not in unwanted]
    log.warning(
        "%d of %d boxes have no area or lie wholly outside their image and are left out, the first in %s",
        len(bad),
        len(annotations),
        owners[bad[0]]["file_name"],
    )
    return len(bad)


def has_objects(record: Record) -> bool:
    """Whether a record shows at least one object that is not a crowd."""
    return any(not annotation.get("iscrowd", 0) for annotation in record.get("annotations", ()))


def _is_finite(annotation: Annotation) -> bool:
    # a sum is finite only where all its terms are, and C adds up a list faster than Python looks at it
    masks = annotation.get("segmentation")
    polygons = masks if isinstance(masks, list) else ()
    return math.isfinite(sum(annotation["bbox"])) and all(math.isfinite(sum(polygon)) for polygon in polygons)


def box_corners(annotations: list[Annotation]) -> np.ndarray:
    """Boxes of whatever mode as corners. -> [N, 4]."""
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=float).reshape(-1, 4)
    modes = np.array([annotation["bbox_mode"] for annotation in annotations])
    corners = np.empty_like(boxes)
    for mode in np.unique(modes):
        rows = modes == mode
        corners[rows] = BoxMode.convert(boxes[rows], BoxMode(int(mode)), BoxMode.XYXY_ABS)
    return corners


def _whereabouts(image_id: int | str, annotation_files: Iterable[str]) -> str:
    """Which annotation it is. Records do not keep the ids of annotations, so the files are read once more."""
    for file in annotation_files:
        for annotation in json.loads(Path(file).read_text()).get("annotations", ()):
            if annotation["image_id"] == image_id and not _is_finite(annotation):
                return f"{file}: annotation {annotation['id']}"
    return "an annotation"
