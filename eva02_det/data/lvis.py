"""LVIS v1: its splits, its records, and the minival split cut out of val."""

import hashlib
import json
import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from eva02_det.data.counts import ImageCounts
from eva02_det.data.paths import cache_folder, first_present
from eva02_det.utils.files import write_json

# name: (annotation files below `lvis/` of which the first present is used, what the log calls the split)
LVIS = {
    "lvis_v1_train": (("lvis_v1_train.json",), "train"),
    "lvis_v1_val": (("lvis_v1_val.json",), "val"),
    "lvis_v1_minival": (("lvis_v1_minival.json", "lvis_v1_val_5k.json", "lvis_v1_minival_inserted_image_name.json"), "minival"),
    "lvis_v1_val_5k": (("lvis_v1_val_5k.json", "lvis_v1_minival.json"), "minival"),
    "lvis_v1_val_cocofied": (("lvis_v1_val_5k_cocofied.json",), "minival with the classes of COCO"),
    "lvis_v1_test_dev": (("lvis_v1_image_info_test_dev.json",), "test-dev"),
}
MINIVAL_FOLDER = "val2017"  # minival: those images of LVIS val that are COCO's val
POLYGON_MIN_NUMBERS = 6  # three corners

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LvisRecords:
    """Reads a split when it is called; classes and counts come from the file, none are bundled."""

    name: str
    json_file: str
    image_root: str

    def facts(self) -> dict[str, Any]:
        """What the metadata say before the file is read."""
        return {
            "json_file": self.json_file,
            "image_root": self.image_root,
            "evaluator_type": "lvis",
            "split": LVIS[self.name][1],
            "class_image_count": ImageCounts(self.json_file),
        }

    def __call__(self) -> list[dict[str, Any]]:
        """One record per image, by id, with the annotations and the two lists of class ids that LVIS evaluates with."""
        content = json.loads(Path(self.json_file).read_text(encoding="utf-8"))
        categories = sorted(content["categories"], key=_by_id)
        to_contiguous = {category["id"]: index for index, category in enumerate(categories)}
        MetadataCatalog.get(self.name).set(
            thing_classes=[category["name"] for category in categories], thing_dataset_id_to_contiguous_id=to_contiguous
        )
        by_image = defaultdict(list)
        for raw in content.pop("annotations", ()):
            annotation = _annotation(raw, to_contiguous)
            if annotation.get("segmentation") != []:
                by_image[raw["image_id"]].append(annotation)
        images = sorted(content["images"], key=_by_id)
        records = [_record(image, self.image_root, by_image.get(image["id"], [])) for image in images]
        log.info("LVIS v1 %s: %d images of %d classes from %s", LVIS[self.name][1], len(records), len(categories), self.json_file)
        return records


def lvis_records(name: str, root: Path) -> LvisRecords:
    """The reader of a split below `root`. An absent minival file stands for one that `make_minival` cuts out of val."""
    files, split = LVIS[name]
    found = first_present(root / "lvis" / file for file in files)
    val = root / "lvis" / LVIS["lvis_v1_val"][0][0]
    if split == "minival" and not found.exists() and val.exists():
        found = _derived_minival(val)
    return LvisRecords(name, str(found), str(root / "coco"))


def make_minival(reader: LvisRecords, root: Path) -> None:
    """Write the minival annotations that `lvis_records` announced, unless they are there already."""
    target, val = Path(reader.json_file), root / "lvis" / LVIS["lvis_v1_val"][0][0]
    if target.exists() or not val.exists() or target != _derived_minival(val):
        return
    content = json.loads(val.read_text(encoding="utf-8"))
    kept = {image["id"] for image in content["images"] if MINIVAL_FOLDER in relative_path(image)}
    content["images"] = [image for image in content["images"] if image["id"] in kept]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
    write_json(target, content)
    log.info("LVIS v1 minival: the %d images of %s that are in COCO's %s, written to %s", len(kept), val, MINIVAL_FOLDER, target)


def _derived_minival(val: Path) -> Path:
    """A name in the cache that changes with the file of val."""
    facts = val.stat()
    digest = hashlib.sha256(f"{val.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:12]
    return cache_folder() / f"lvis_v1_minival-{digest}.json"


def _by_id(entry: dict[str, Any]) -> int:
    return entry["id"]


def relative_path(image: dict[str, Any]) -> str:
    """`train2017/000000000001.jpg`: LVIS takes images of both COCO folders and names them by their URL."""
    if "coco_url" in image:
        return "/".join(image["coco_url"].split("/")[-2:])
    name = image["file_name"].rsplit("_", 1)[-1]  # LVIS v0.5: COCO_val2014_000000000001.jpg
    return f"{MINIVAL_FOLDER}/{name}"


def _record(image: dict[str, Any], root: str, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    record = {"file_name": f"{root}/{relative_path(image)}", "height": image["height"], "width": image["width"]}
    record |= {"image_id": image["id"], "annotations": annotations}
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        record[key] = image.get(key, [])
    return record


def _annotation(raw: dict[str, Any], to_contiguous: dict[int, int]) -> dict[str, Any]:
    annotation = {"bbox": raw["bbox"], "bbox_mode": BoxMode.XYWH_ABS, "category_id": to_contiguous[raw["category_id"]]}
    if "segmentation" in raw:
        annotation["segmentation"] = _valid_polygons(raw["segmentation"])
    return annotation


def _valid_polygons(mask: Any) -> Any:
    """Those of three corners or more; run lengths as they are."""
    if isinstance(mask, dict):
        return mask
    return [polygon for polygon in mask if len(polygon) >= POLYGON_MIN_NUMBERS and len(polygon) % 2 == 0]
