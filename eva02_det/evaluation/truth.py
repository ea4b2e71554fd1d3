"""An annotation file of COCO or LVIS as columns, read without keeping more of it in memory than is asked for."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from eva02_det.utils.errors import UserError

# Axes: I images, K categories, G annotations, all in the order of their ids except annotations, which keep the file's.

FREQUENCIES = ("r", "c", "f")  # rare: up to 10 training images, common: up to 100, frequent: more (LVIS, section 3)
LARGEST_AREA = 1e5**2  # the benchmarks' "any size"; what is larger is counted nowhere

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Truth:
    """What is to be found, and in which images one knows."""

    image_ids: NDArray[Any]  # [I] ascending
    sizes: NDArray[np.int32]  # [I, 2] height, width
    category_ids: NDArray[np.int64]  # [K] ascending
    names: tuple[str, ...]  # K
    image: NDArray[np.int32]  # [G] which of the images
    category: NDArray[np.int32]  # [G] which of the categories
    boxes: NDArray[np.float64]  # [G, 4] x, y, width, height
    areas: NDArray[np.float64]  # [G] pixels
    crowd: NDArray[np.bool_]  # [G] a region of many objects: found any number of times, never missed
    masks: tuple[Any, ...] | None  # G segmentations as in the file, coordinates as arrays; None where they were not read
    with_masks: bool  # whether each annotation has one
    annotated: bool  # False: a test set, whose annotations are not published
    # LVIS alone: pairs of image and category as image * K + category, ascending
    absent: NDArray[np.int64] | None = None  # looked for and not there
    incomplete: NDArray[np.int64] | None = None  # there, but not every object is annotated
    frequency: NDArray[np.str_] | None = None  # [K] of FREQUENCIES

    @property
    def federated(self) -> bool:
        """Whether only some categories were looked for in each image, as in LVIS."""
        return self.absent is not None

    def pairs(self, image: NDArray[np.integer], category: NDArray[np.integer]) -> NDArray[np.int64]:
        """Image and category as one number."""
        return image.astype(np.int64) * len(self.category_ids) + category

    def image_rows(self, image_ids: NDArray[Any]) -> NDArray[np.int64]:
        """Where these images are; -1 for one that the file has not."""
        return _rows(self.image_ids, image_ids)

    def of_images(self, rows: NDArray[np.integer]) -> "Truth":
        """A part of the data set. rows: [I'] ascending."""
        part = self._of(_places(rows, len(self.image_ids)), np.arange(len(self.category_ids)))
        return replace(part, image_ids=self.image_ids[rows], sizes=self.sizes[rows])

    def of_categories(self, rows: NDArray[np.integer]) -> "Truth":
        """Some of the categories. rows: [K'] ascending."""
        part = self._of(np.arange(len(self.image_ids)), _places(rows, len(self.category_ids)))
        return replace(
            part,
            category_ids=self.category_ids[rows],
            names=tuple(self.names[row] for row in rows.tolist()),
            frequency=None if self.frequency is None else self.frequency[rows],
        )

    def run_lengths(self) -> list[dict[str, Any]]:
        """G masks as compressed run lengths; UserError where one has none."""
        if self.masks is None or not self.with_masks:
            raise UserError("the ground truth has no masks, so only tasks=['bbox'] can be evaluated")
        return [_run_lengths(mask, *self.sizes[row].tolist()) for mask, row in zip(self.masks, self.image.tolist())]

    def _of(self, image_places: NDArray[np.int64], category_places: NDArray[np.int64]) -> "Truth":
        """The annotations and pairs that stay, on the rows that images and categories are to have; -1 for what goes."""
        kept = np.flatnonzero((image_places[self.image] >= 0) & (category_places[self.category] >= 0))

        def moved(pairs: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
            if pairs is None:
                return None
            image, category = np.divmod(pairs, len(self.category_ids))
            image, category = image_places[image], category_places[category]
            return (image * (category_places.max(initial=-1) + 1) + category)[(image >= 0) & (category >= 0)]

        return replace(
            self,
            image=image_places[self.image[kept]].astype(np.int32),
            category=category_places[self.category[kept]].astype(np.int32),
            **{name: getattr(self, name)[kept] for name in ("boxes", "areas", "crowd")},
            masks=None if self.masks is None else tuple(self.masks[row] for row in kept.tolist()),
            absent=moved(self.absent),
            incomplete=moved(self.incomplete),
        )


def read_truth(file: str, *, federated: bool = False, masks: bool = True) -> Truth:
    """federated: LVIS's fields are wanted. masks: whether the masks are kept. UserError where the file is not usable."""
    compact = _Compact(masks)
    try:
        with PathManager.open(file) as stream:
            content = json.load(stream, object_hook=compact)
    except FileNotFoundError as error:
        raise UserError(f"annotation file {file} does not exist; correct its path, or download it") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid JSON ({error}); download the annotations again") from error
    try:
        return truth_of(content, federated=federated, masks=masks, source=file)
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{file}: not usable as {'LVIS' if federated else 'COCO'} annotations ({reason})") from error


def truth_of(
    content: Mapping[str, Any], *, federated: bool = False, masks: bool = True, source: str = "the annotations"
) -> Truth:
    """As `read_truth`, from the content of a file, which stays as it is. source: what errors call it."""
    images = sorted(content["images"], key=lambda image: image["id"])
    categories = sorted(content["categories"], key=lambda category: category["id"])
    image_ids = np.array([image["id"] for image in images]) if images else np.zeros(0, np.int64)
    category_ids = np.array([category["id"] for category in categories], np.int64)
    annotations = _usable(content.get("annotations", ()), image_ids, category_ids, federated)
    boxes = np.array([one["bbox"] for one in annotations], np.float64).reshape(-1, 4)
    areas = np.array([one.get("area", one["bbox"][2] * one["bbox"][3]) for one in annotations], np.float64)
    if federated:  # what is to be ignored there counts like what is of no size that counts
        areas[np.array([bool(one.get("ignore")) for one in annotations], bool)] = 2 * LARGEST_AREA
    truth = Truth(
        image_ids=image_ids,
        sizes=np.array([(image["height"], image["width"]) for image in images], np.int32).reshape(-1, 2),
        category_ids=category_ids,
        names=tuple(str(category["name"]) for category in categories),
        image=_rows(image_ids, [one["image_id"] for one in annotations]).astype(np.int32),
        category=_rows(category_ids, [one["category_id"] for one in annotations]).astype(np.int32),
        boxes=boxes,
        areas=areas,
        crowd=np.array([not federated and bool(one.get("iscrowd")) for one in annotations], bool),
        masks=tuple(one.get("segmentation") for one in annotations) if masks else None,
        with_masks=all(_has_mask(one) for one in annotations),
        annotated="annotations" in content,
    )
    if not federated:
        return truth
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        if images and key not in images[0]:
            raise UserError(f"{source}: the images have no {key!r}, so this is not LVIS; evaluate it with CocoEvaluator")
    return _with_federation(truth, images, categories)


def _places(rows: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """Of `count` old rows, their new ones; -1 for those that go."""
    places = np.full(count, -1, np.int64)
    places[rows] = np.arange(len(rows))
    return places


class _Compact:
    """Shrinks masks while a file is read: coordinates to arrays, or to a mark that there is a mask."""

    def __init__(self, masks: bool) -> None:
        self.masks = masks

    def __call__(self, entry: dict[str, Any]) -> dict[str, Any]:
        stored = entry.get("segmentation")
        if not self.masks and stored is not None:
            entry["segmentation"] = bool(stored)
        elif isinstance(stored, list) and all(isinstance(polygon, list) for polygon in stored):
            entry["segmentation"] = [np.array(polygon, np.float64) for polygon in stored]
        return entry


def _has_mask(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation.get("segmentation"))


def _with_federation(truth: Truth, images: Sequence[Mapping[str, Any]], categories: Sequence[Mapping[str, Any]]) -> Truth:
    frequency = [category.get("frequency", "") for category in categories]
    return replace(
        truth,
        absent=_listed(truth, images, "neg_category_ids"),
        incomplete=_listed(truth, images, "not_exhaustive_category_ids"),
        frequency=np.array(frequency, dtype="U1"),
    )


def _listed(truth: Truth, images: Sequence[Mapping[str, Any]], key: str) -> NDArray[np.int64]:
    """Pairs of image and category in a list of each image."""
    counts = [len(image[key]) for image in images]
    category = _rows(truth.category_ids, [one for image in images for one in image[key]])
    image = np.repeat(np.arange(len(images)), counts)
    return np.unique(truth.pairs(image[category >= 0], category[category >= 0]))


def _rows(known: NDArray[Any], wanted: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
    """Where the wanted ids are among the known ones, ascending; -1 for an unknown one."""
    wanted = np.asarray(wanted)
    if not len(known) or not len(wanted) or (known.dtype.kind == "U") != (wanted.dtype.kind == "U"):
        return np.full(len(wanted), -1, np.int64)
    rows = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[rows] == wanted, rows, -1)


def _usable(
    annotations: Sequence[Mapping[str, Any]], image_ids: NDArray[Any], category_ids: NDArray[np.int64], federated: bool
) -> list[Mapping[str, Any]]:
    """The annotations that the references look at."""
    images, categories = set(image_ids.tolist()), set(category_ids.tolist())
    kept = [one for one in annotations if one["image_id"] in images and one["category_id"] in categories]
    if len(kept) < len(annotations):
        total = len(annotations)
        log.warning("%d of %d annotations are of an image or category that the file has not; left out", total - len(kept), total)
    # LVIS's reference leaves out what has no area
    return [one for one in kept if one["area"] > 0] if federated else kept


def _run_lengths(stored: Any, height: int, width: int) -> dict[str, Any]:
    """Polygons, or run lengths, compressed or not, as compressed run lengths."""
    if isinstance(stored, Mapping):
        if isinstance(stored["counts"], list):
            return coco_mask.frPyObjects(dict(stored), height, width)
        counts = stored["counts"]
        return {"size": list(stored["size"]), "counts": counts.encode("ascii") if isinstance(counts, str) else counts}
    return coco_mask.merge(coco_mask.frPyObjects(list(stored), height, width))
