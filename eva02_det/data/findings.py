"""What is wrong with an annotation file in COCO's format, in words and numbers, before anything is made of it."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eva02_det.utils.errors import UserError

Entry = dict[str, Any]
Complaint = tuple[str, str]  # what is wrong, where

POLYGON_MIN_NUMBERS = 6  # three corners


@dataclass(frozen=True)
class Finding:
    """One kind of fault: how often, where first, and whether nothing can be done with the file because of it."""

    what: str
    count: int
    first: str
    fatal: bool

    def __str__(self) -> str:
        return f"{self.count} {self.what} (the first: {self.first})"


def read_annotation_file(json_file: str | Path) -> Entry:
    """The content; UserError where it is no JSON, or lacks one of COCO's lists."""
    try:
        content = json.loads(Path(json_file).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"annotation file {json_file} does not exist; correct its path") from error
    except OSError as error:
        raise UserError(f"annotation file {json_file} cannot be read ({error}); correct its path") from error
    except ValueError as error:
        raise UserError(f"{json_file}: not valid JSON ({error}); write or download the annotations again") from error
    kinds = {"images": list, "annotations": list, "categories": list}
    wrong = [key for key, kind in kinds.items() if not isinstance(content, dict) or not isinstance(content.get(key), kind)]
    if isinstance(content, dict) and wrong == ["annotations"] and "annotations" not in content:  # a test set
        wrong = []
    entries = () if wrong else (one for key in kinds for one in content.get(key, ()))
    if wrong or not all(isinstance(one, dict) for one in entries):
        lacks = f"no list {', '.join(map(repr, wrong))}" if wrong else "entries that are no records"
        raise UserError(f"{json_file}: not in COCO's format, it has {lacks}; see datasets/README.md for what is expected")
    return content


def inspect(content: Entry) -> list[Finding]:
    """All faults of the content of an annotation file, those that nothing can be made of first."""
    fatal, harmless = _Tally(fatal=True), _Tally(fatal=False)
    categories, images = content["categories"], content["images"]
    fatal.add_all(_categories(categories))
    fatal.add_all(_images(images))
    harmless.add_all(_shared_names((one.get("name") for one in categories), "category names stand for several categories"))
    harmless.add_all(_shared_names(map(file_name, images), "image files are listed several times"))
    known = {image.get("id"): image for image in images if _is_sized(image)}
    classes = {category.get("id") for category in categories}
    fatal.add_all(_repeated(content.get("annotations", ()), "annotations share their id with another one", "annotation"))
    for annotation in content.get("annotations", ()):
        faults = list(_references(annotation, known, classes))
        fatal.add_all(faults)
        if not faults:
            image = known[annotation["image_id"]]
            fatal.add_all(_numbers(annotation, image))
            harmless.add_all(_shows_nothing(annotation, image))
    return [*fatal.findings(), *harmless.findings()]


def file_name(image: Entry) -> Any:
    """COCO's name of an image, or LVIS's."""
    return image.get("file_name", image.get("coco_url"))


class _Tally:
    """Counts complaints and keeps the first of each kind."""

    def __init__(self, fatal: bool) -> None:
        self.fatal = fatal
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add_all(self, complaints: Iterable[Complaint]) -> None:
        for what, where in complaints:
            self.counts[what] += 1
            self.first.setdefault(what, where)

    def findings(self) -> list[Finding]:
        return [Finding(what, count, self.first[what], self.fatal) for what, count in self.counts.items()]


def _categories(categories: list[Entry]) -> Iterator[Complaint]:
    if not categories:
        yield "list of categories is empty", "'categories'"
    for category in categories:
        if not _is_id(category.get("id")) or not isinstance(category.get("name"), str):
            yield "categories have no whole number 'id' or no 'name'", str(category)[:80]
    yield from _repeated(categories, "categories share their id with another one", "category")


def _images(images: list[Entry]) -> Iterator[Complaint]:
    if not images:
        yield "list of images is empty", "'images'"
    for image in images:
        if not _is_sized(image):
            yield "images lack an 'id', or a whole 'height' and 'width' above zero", str(image)[:80]
        elif not isinstance(file_name(image), str):
            yield "images have no 'file_name'", f"image {image['id']}"
    yield from _repeated(images, "images share their id with another one", "image")


def _shared_names(names: Iterable[Any], what: str) -> Iterator[Complaint]:
    yield from ((what, repr(name)) for name, count in Counter(map(str, names)).items() if count > 1)


def _repeated(entries: Iterable[Entry], what: str, kind: str) -> Iterator[Complaint]:
    """One complaint for each entry whose id came before."""
    seen = set()
    for entry in entries:
        number = entry.get("id")
        if isinstance(number, (int, str)) and number in seen:
            yield what, f"{kind} {number}"
        elif isinstance(number, (int, str)):
            seen.add(number)


def _references(annotation: Entry, images: dict[Any, Entry], classes: set[Any]) -> Iterator[Complaint]:
    where = f"annotation {annotation.get('id')}"
    if not _is_id(annotation.get("id")):
        yield "annotations have no whole number 'id'", str(annotation)[:80]
    if not _is_known(annotation.get("image_id"), images):
        yield "annotations belong to an image that the file does not list", f"{where}, image {annotation.get('image_id')}"
    if not _is_known(annotation.get("category_id"), classes):
        yield (
            "annotations are of a category that the file does not define",
            f"{where}, category {annotation.get('category_id')}",
        )
    box = annotation.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        yield "annotations have no 'bbox' of four numbers x, y, width, height", f"{where}, {str(box)[:60]}"


def _numbers(annotation: Entry, image: Entry) -> Iterator[Complaint]:
    """Coordinates that cannot be computed with, and masks that cannot be decoded."""
    where, mask = f"annotation {annotation['id']}", annotation.get("segmentation")
    if not all(map(math.isfinite, annotation["bbox"])):
        yield "boxes hold a number that is not finite", where
    if isinstance(mask, dict):
        if list(mask.get("size", ())) != [image["height"], image["width"]] or "counts" not in mask:
            yield "run-length masks are not of the size of their image", f"{where}, {mask.get('size')}"
        elif isinstance(mask["counts"], list) and sum(mask["counts"]) != image["height"] * image["width"]:
            yield "run-length masks do not add up to their image", where
    elif isinstance(mask, list):
        for polygon in mask:
            if not (isinstance(polygon, list) and all(map(_is_number, polygon))):
                yield "polygons are no lists of numbers", where
            elif not math.isfinite(sum(polygon)):
                yield "polygons hold a number that is not finite", where
    elif mask is not None:
        yield "masks are neither polygons nor run lengths", f"{where}, {type(mask).__name__}"


def _shows_nothing(annotation: Entry, image: Entry) -> Iterator[Complaint]:
    """What is left out in training."""
    where, mask = f"annotation {annotation['id']}", annotation.get("segmentation")
    left, top, width, height = annotation["bbox"]
    if width <= 0 or height <= 0:
        yield "boxes have no area and are left out", where
    elif left >= image["width"] or top >= image["height"] or left + width <= 0 or top + height <= 0:
        yield "boxes lie wholly outside their image and are left out", where
    elif left < -1 or top < -1 or left + width > image["width"] + 1 or top + height > image["height"] + 1:
        yield "boxes reach over the edge of their image and are cut there", where
    if isinstance(mask, list) and mask and not any(map(_is_polygon, mask)):
        yield "masks have no polygon of three corners and are left out", where
    elif isinstance(mask, list) and not all(map(_is_polygon, mask)):
        yield "masks have a polygon of fewer than three corners, which is left out", where


def _is_polygon(polygon: Any) -> bool:
    return isinstance(polygon, list) and len(polygon) >= POLYGON_MIN_NUMBERS and len(polygon) % 2 == 0


def _is_sized(image: Entry) -> bool:
    return isinstance(image.get("id"), (int, str)) and all(
        _is_id(image.get(side)) and image[side] > 0 for side in ("height", "width")
    )


def _is_known(number: Any, known: Any) -> bool:
    return isinstance(number, (int, str)) and number in known


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
