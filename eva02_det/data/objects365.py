"""Objects365 v2: boxes only, in the folder layouts that its archives and their mirrors unpack to."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from detectron2.data.datasets import load_coco_json

from eva02_det.data.paths import first_present

SPLITS = {"objects365_train": "train", "objects365_val": "val"}
# the released detectors were trained on both; a name of its own, because its val AP is measured on training data
TRAINVAL, TRAINVAL_PARTS = "objects365_trainval", ("objects365_train", "objects365_val")
FOLDERS = ("objects365", "Objects365", "o365", "obj365", "objects365_v2", "Objects365_v2", "objects365v2", "Objects365v2")
# listed in the training annotations, but in none of the archives
NEVER_RELEASED = ("objects365_v2_00908726.jpg", "objects365_v1_00320532.jpg", "objects365_v1_00320534.jpg")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Objects365Records:
    """Reads a split when it is called; classes are named as the file names them, blanks included."""

    name: str
    json_file: str
    image_root: str

    def facts(self) -> dict[str, Any]:
        """What the metadata say before the file is read."""
        return {"json_file": self.json_file, "image_root": self.image_root, "evaluator_type": "coco", "split": SPLITS[self.name]}

    def __call__(self) -> list[dict[str, Any]]:
        """One record per image, by id, with the path at which the image really lies."""
        records = load_coco_json(self.json_file, self.image_root, self.name)
        where = ImageFinder(Path(self.image_root), SPLITS[self.name])
        kept = []
        for record in records:
            stated = record["file_name"]
            record["file_name"] = str(where(os.path.relpath(stated, self.image_root)))
            if stated.endswith(NEVER_RELEASED) and not os.path.isfile(record["file_name"]):
                log.info("Objects365: %s is left out; the annotations list it, but no archive contains it", stated)
                continue
            for annotation in record["annotations"]:
                annotation.pop("segmentation", None)
            kept.append(record)
        return kept


class ImageFinder:
    """Where an image lies that the annotations call `images/v1/patch0/x.jpg`, while archives unpack to `patch0/x.jpg`."""

    def __init__(self, root: Path, split: str) -> None:
        self.root, self.split = root, split
        self._listing, self._places = cache(_listing), cache(self._existing)  # folders are few, images are millions

    def __call__(self, stated: str) -> Path:
        """The file if it is found, else the place at which the annotations put it."""
        folder, _, name = stated.replace("\\", "/").rpartition("/")
        return next((place / name for place in self._places(folder) if name in self._listing(place)), self.root / stated)

    def _existing(self, folder: str) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(place for place in self._candidates(folder) if place.is_dir()))

    def _candidates(self, folder: str) -> Iterator[Path]:
        """All of the stated folder, then ever less of it, below each folder that images are kept in."""
        parts = [part for part in folder.split("/") if part]
        for skipped in range(len(parts) + 1):
            rest = "/".join(parts[skipped:])
            for base in ("", "images", self.split, f"images/{self.split}", f"{self.split}/images"):
                yield self.root / base / rest


def objects365_records(name: str, root: Path) -> Objects365Records:
    """The reader of a split below `root`, in whichever of the known folders holds Objects365."""
    file = f"zhiyuan_objv2_{SPLITS[name]}.json"
    found = first_present(root / folder / below / file for below in ("annotations", "") for folder in FOLDERS)
    home = found.parent.parent if found.parent.name == "annotations" else found.parent
    return Objects365Records(name, str(found), str(home))


def _listing(folder: Path) -> frozenset[str]:
    return frozenset(os.listdir(folder))
