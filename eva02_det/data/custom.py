"""A user's own data in COCO's format: looked through first, then registered under a name of its own."""

import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eva02_det.data.findings import Finding, inspect, read_annotation_file
from eva02_det.data.image_files import absent_images
from eva02_det.data.registration import register_coco_style
from eva02_det.utils.errors import UserError

MOST = 3  # kinds of faults that one sentence names

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CustomDataset:
    """A registered data set: its name, its classes in the order of their ids, and whether every object has a mask."""

    name: str
    classes: tuple[str, ...]
    has_masks: bool


def custom_dataset(json_file: str | Path, image_root: str | Path, *, name: str | None = None) -> CustomDataset:
    """Validate an annotation file in COCO's format and its images, and register both.

    The name is made of the file's name and of both paths, so that every process of a run finds the same one, unless one is
    given. UserError says in one sentence what is wrong, how often, and where first.
    """
    file, root = Path(json_file).expanduser().resolve(), Path(image_root).expanduser().resolve()
    if not root.is_dir():
        raise UserError(f"image folder {image_root} does not exist; correct its path")
    content = read_annotation_file(file)
    _require_usable(file, content, root)
    name = name or f"{file.stem}-{hashlib.sha256(f'{file} {root}'.encode()).hexdigest()[:6]}"
    register_coco_style(name, file, root)
    classes = tuple(category["name"] for category in sorted(content["categories"], key=_by_id))
    annotations = content.get("annotations", [])
    log.info(
        "%s: %d images, %d annotations, %d classes, in %s", name, len(content["images"]), len(annotations), len(classes), file
    )
    return CustomDataset(name, classes, _has_masks(file, annotations))


def _require_usable(file: Path, content: dict[str, Any], root: Path) -> None:
    findings = inspect(content)
    fatal = [finding for finding in findings if finding.fatal]
    if not fatal:
        missing = absent_images(os.path.join(root, image["file_name"]) for image in content["images"])
        fatal = [Finding("images do not exist", len(missing), missing[0], True)] if missing else []
    if fatal:
        raise UserError(f"{file}: {_listed(fatal)}; correct the file, or complete the images in {root}")
    for finding in findings:
        log.warning("%s: %s", file, finding)


def _listed(findings: Iterable[Finding]) -> str:
    every = list(findings)
    more = f", and faults of {len(every) - MOST} more kinds" if len(every) > MOST else ""
    return "; ".join(map(str, every[:MOST])) + more


def _has_masks(file: Path, annotations: list[dict[str, Any]]) -> bool:
    objects = [one for one in annotations if not one.get("iscrowd")]
    masked = sum(bool(one.get("segmentation")) for one in objects)
    if 0 < masked < len(objects):
        log.warning("%s: only %d of %d objects have a mask, so the masks are not used", file, masked, len(objects))
    return bool(objects) and masked == len(objects)


def _by_id(category: dict[str, Any]) -> int:
    return category["id"]
