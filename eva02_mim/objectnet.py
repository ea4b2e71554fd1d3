"""ObjectNet's classes as rows of an ImageNet head, from the mapping files of its download."""

import json
from pathlib import Path
from typing import Any

from eva02_det.utils.errors import UserError

IMAGES, MAPPINGS = "images", "mappings"
FOLDERS = "folder_to_objectnet_label.json"  # folder -> ObjectNet's name of the class
OVERLAP = "objectnet_to_imagenet_1k.json"  # ObjectNet's name -> ImageNet's names of the same, separated by "; "
NAMES = "imagenet_to_label_2012_v2"  # a name of ImageNet a line, in the order of the 2012 ids
IDS = "pytorch_to_imagenet_2012_id.json"  # row of a head -> 2012 id, from 0


def find_parts(folder: str | Path) -> tuple[Path, Path]:
    """(images, mappings) of the download; `folder` is the download or its folder of images."""
    folder = Path(folder).expanduser()
    root = folder if (folder / IMAGES).is_dir() else folder.parent
    images = root / IMAGES if root == folder else folder
    if not (root / MAPPINGS).is_dir():
        raise UserError(f"{root} has no folder {MAPPINGS}, so {folder} is no ObjectNet; give objectnet-1.0 of its download")
    return images, root / MAPPINGS


def rows_of_folders(mappings: Path) -> dict[str, tuple[int, ...]]:
    """Folder -> rows of a 1000-way head that mean its class, in the order of the file; only classes that ImageNet has."""
    folders, overlap, ids = (_json(mappings / name) for name in (FOLDERS, OVERLAP, IDS))
    names = [line.strip() for line in _text(mappings / NAMES).splitlines()]
    try:
        row_of_name = {names[int(number)]: int(row) for row, number in ids.items()}
        folder_of_class = {name: folder for folder, name in folders.items()}
        return {folder_of_class[name]: tuple(row_of_name[one] for one in text.split("; ")) for name, text in overlap.items()}
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UserError(
            f"the files of {mappings} do not fit together ({type(error).__name__}: {error}); download ObjectNet again"
        ) from error


def _json(file: Path) -> Any:
    try:
        return json.loads(_text(file))
    except ValueError as error:
        raise UserError(f"{file} of ObjectNet is no JSON ({error}); download ObjectNet again") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} of ObjectNet cannot be read ({error}); its download holds it in {MAPPINGS}") from error
