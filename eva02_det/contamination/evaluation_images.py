"""The evaluation set: its images with what is counted about them, from any registered data set or annotation file."""

import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from eva02_det.contamination.corpus import name_of, place_of
from eva02_det.contamination.listing import Entry, Place, entry_of, locator
from eva02_det.data.findings import read_annotation_file
from eva02_det.data.image_files import absent_images
from eva02_det.data.objects365 import NEVER_RELEASED
from eva02_det.data.registration import find_dataset, register_builtin
from eva02_det.utils.errors import UserError

FREQUENCY = {"r": "rare", "c": "common", "f": "frequent"}
_COCO_FOLDER = re.compile(r"(?:^|[/_])((?:train|val|test)20\d\d)(?=[/_]|$)")


@dataclass(frozen=True)
class EvaluationImage:
    """split: COCO's folder of the image, else that of the data set. objects: {category id: instances, crowds left out}."""

    image_id: int
    entry: Entry
    path: str
    split: str
    objects: dict[int, int]

    @property
    def instances(self) -> int:
        """Of all categories."""
        return sum(self.objects.values())


@dataclass(frozen=True)
class EvaluationSet:
    """spec: what it was opened by. json_file: None where there is none.

    frequency: {category id: "rare", "common" or "frequent"}, empty but for LVIS.
    """

    name: str
    spec: str
    images: tuple[EvaluationImage, ...]
    frequency: dict[int, str]
    json_file: str | None

    @property
    def digest(self) -> str:
        """Of names, ids and counts."""
        digest = hashlib.blake2b(digest_size=16)
        for image in self.images:
            facts = [image.image_id, *image.entry[1:], image.split, sorted(image.objects.items())]
            digest.update(json.dumps(facts).encode() + b"\n")
        return digest.hexdigest()

    @property
    def instances(self) -> int:
        """Of all images."""
        return sum(image.instances for image in self.images)

    def require_images(self) -> None:
        """UserError where image files are missing."""
        if missing := absent_images(image.path for image in self.images if not image.path.endswith(NEVER_RELEASED)):
            raise UserError(
                f"{len(missing)} of {len(self.images)} images of the evaluation set {self.name} do not exist (the first: "
                f"{missing[0]}); download them, name their folder as in FILE.json@FOLDER, or compare names alone with "
                "--stages id file_name url"
            )


def open_evaluation(spec: str) -> EvaluationSet:
    """A registered data set, or FILE.json@FOLDER. UserError where it is unknown, lists no images, or has no whole ids."""
    if ".json" not in spec and _is_custom(spec):
        return _from_records(spec)
    place = place_of(spec)
    if place is None:
        raise UserError(
            f"the evaluation set {spec} is neither a registered data set nor an annotation file; "
            "give a name such as lvis_v1_val, or FILE.json@FOLDER"
        )
    content = read_annotation_file(place.json_file)
    entries = [(image, _entry(image, place)) for image in content["images"]]
    if not entries:
        raise UserError(f"the evaluation set {spec} has no image: the list 'images' of {place.json_file} is empty")
    objects = _objects(content.get("annotations", ()), place.json_file)
    where = locator(place)
    default = place.split or _folder(place.image_root) or "all"
    images = (
        EvaluationImage(image["id"], entry, where(entry.file), _split(image, entry, default), objects.get(entry.id, {}))
        for image, entry in entries
    )
    frequency = {one["id"]: FREQUENCY[one["frequency"]] for one in content["categories"] if one.get("frequency") in FREQUENCY}
    return EvaluationSet(name_of(spec), spec, _checked(images, spec), frequency, place.json_file)


def _is_custom(name: str) -> bool:
    """Whether a registered data set is no file in COCO's format but a function of its own."""
    if "/" in name:
        return False
    register_builtin()
    find_dataset(name)
    return not MetadataCatalog.get(name).get("json_file")


def _from_records(name: str) -> EvaluationSet:
    records: list[dict[str, Any]] = DatasetCatalog.get(name)
    if not records:
        raise UserError(f"the evaluation set {name} has no image: its function gives no records")
    root = os.path.commonpath([os.path.dirname(record["file_name"]) for record in records])
    images = []
    for record in records:
        counted = Counter(one["category_id"] for one in record.get("annotations", ()) if not one.get("iscrowd"))
        file = os.path.relpath(record["file_name"], root)
        entry = Entry(record["image_id"], file, None, "")
        images.append(
            EvaluationImage(
                record["image_id"], entry, record["file_name"], _split({}, entry, _folder(root) or "all"), dict(counted)
            )
        )
    return EvaluationSet(name, name, _checked(images, name), {}, None)


def _checked(images: Iterable[EvaluationImage], name: str) -> tuple[EvaluationImage, ...]:
    """By id; every id is a whole number of its own."""
    checked = list(images)
    if strange := next((image for image in checked if not isinstance(image.image_id, int)), None):
        raise UserError(f"the evaluation set {name} has the image id {strange.image_id!r}; ids must be whole numbers")
    number, count = Counter(image.image_id for image in checked).most_common(1)[0]
    if count > 1:
        raise UserError(f"the evaluation set {name} lists image {number} {count} times; an id must stand for one image")
    return tuple(sorted(checked, key=_by_id))


def _by_id(image: EvaluationImage) -> int:
    return image.image_id


def _entry(image: dict[str, Any], place: Place) -> Entry:
    try:
        return entry_of(image, coco_ids=place.coco_ids, lvis=place.lvis)
    except KeyError as error:
        raise UserError(
            f"{place.json_file}: an image has no {error}; every one needs 'id', and 'file_name' or 'coco_url'"
        ) from error


def _objects(annotations: Iterable[dict[str, Any]], file: str) -> dict[Any, dict[int, int]]:
    counts: dict[Any, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    try:
        for one in annotations:
            if not one.get("iscrowd"):
                counts[one["image_id"]][one["category_id"]] += 1
    except KeyError as error:
        raise UserError(f"{file}: an annotation has no {error}; list its faults with tools/check_datasets.py") from error
    return {image: dict(of_image) for image, of_image in counts.items()}


def _split(image: dict[str, Any], entry: Entry, default: str) -> str:
    """COCO's folder in the address or the name of the image: LVIS takes its val from train2017 and val2017."""
    found: Iterator[re.Match[str] | None] = (_COCO_FOLDER.search(text) for text in (str(image.get("coco_url", "")), entry.file))
    match = next((one for one in found if one), None)
    return match[1] if match else default


def _folder(root: str | None) -> str | None:
    return Path(root).name if root else None
