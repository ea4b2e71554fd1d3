"""What must be known of ImageNet-1K to score a variant of it; timm ships the lists."""

import json
import re
from functools import cache
from importlib import resources
from pathlib import PurePath

from eva02_det.utils.errors import UserError

CLASSES, VALIDATION_IMAGES = 1000, 50_000
VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+")


@cache
def class_ids() -> tuple[str, ...]:
    """The WordNet ids of the 1000 classes in the order of the rows of a head, which is their sorted order."""
    return _listed("imagenet_synsets.txt")


def rows_of_ids() -> dict[str, int]:
    """WordNet id -> row of a 1000-way head."""
    return {name: row for row, name in enumerate(class_ids())}


def rows_of_subset(letter: str) -> dict[str, int]:
    """WordNet id -> row of a 1000-way head, for the 200 classes of ImageNet-A ("a") or -R ("r")."""
    rows = rows_of_ids()
    return {name: rows[name] for name in sorted(_listed(f"imagenet_{letter}_synsets.txt"))}


@cache
def real_labels() -> tuple[tuple[int, ...], ...]:
    """ReaL's rows for each of the 50,000 validation images, in the order of their numbers; empty where nobody agreed."""
    return tuple(tuple(rows) for rows in json.loads(_text("imagenet_real_labels.json")))


def validation_number(file: str) -> int:
    """Place of a validation image by its file name, from 0; UserError for another file."""
    match = VALIDATION_NAME.fullmatch(PurePath(file).name)
    number = int(match[1]) if match else 0
    if not 1 <= number <= VALIDATION_IMAGES:
        raise UserError(
            f"{file} is no validation image of ImageNet-1K, whose names are ILSVRC2012_val_00000001.JPEG to "
            f"ILSVRC2012_val_{VALIDATION_IMAGES:08d}.JPEG; ReaL's labels are found by these names"
        )
    return number - 1


def _listed(file: str) -> tuple[str, ...]:
    return tuple(_text(file).split())


def _text(file: str) -> str:
    try:
        return (resources.files("timm.data") / "_info" / file).read_text(encoding="utf-8")
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise UserError(f"{file} of ImageNet comes with timm 1.0.12 or newer; run `pip install 'timm>=1.0.12'`") from error
