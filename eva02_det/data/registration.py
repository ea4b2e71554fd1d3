"""Which data sets exist, where their files lie, and loading them with checks."""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import register_coco_instances
from omegaconf import DictConfig, OmegaConf

from eva02_det.data.lvis import LVIS, LvisRecords, lvis_records, make_minival
from eva02_det.data.objects365 import SPLITS, TRAINVAL, TRAINVAL_PARTS, Objects365Records, objects365_records
from eva02_det.data.paths import datasets_root
from eva02_det.data.validate import check_records, has_objects
from eva02_det.utils.errors import UserError

# name: annotation file and image folder below the root
COCO = {
    "coco_2017_train": ("coco/annotations/instances_train2017.json", "coco/train2017"),
    "coco_2017_val": ("coco/annotations/instances_val2017.json", "coco/val2017"),
    "coco_2017_test-dev": ("coco/annotations/image_info_test-dev2017.json", "coco/test2017"),
}

log = logging.getLogger(__name__)


def register_builtin() -> None:
    """Register COCO, LVIS v1 and Objects365 v2 below DETECTRON2_DATASETS. May be called again, after a change of root too."""
    register_coco()
    root = datasets_root()
    for name in LVIS:
        _register_reader(lvis_records(name, root))
    for name in SPLITS:
        _register_reader(objects365_records(name, root))


def register_coco() -> None:
    """Register COCO 2017 train, val and test-dev below DETECTRON2_DATASETS. May be called again, after a change of root too."""
    for name, (annotations, images) in COCO.items():
        known = MetadataCatalog.get(name).get("json_file")
        # somebody's own registration under a name of ours stays
        if known is None or Path(known).as_posix().endswith(annotations):
            register_coco_style(name, datasets_root() / annotations, datasets_root() / images)


def register_coco_style(name: str, json_file: str | Path, image_root: str | Path) -> None:
    """Register a data set in COCO's format, in the place of an earlier one of that name that has other files."""
    files = {"json_file": str(json_file), "image_root": str(image_root)}
    if name in DatasetCatalog.list():
        known = MetadataCatalog.get(name)
        if all(known.get(kind) and Path(known.get(kind)) == Path(path) for kind, path in files.items()):
            return
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_coco_instances(name, {}, **files)


def _register_reader(reader: LvisRecords | Objects365Records) -> None:
    """Put a reader under its name, in the place of an earlier one of ours or of detectron2's own for the same file."""
    if reader.name in DatasetCatalog.list():
        present = DatasetCatalog[reader.name]
        known = Path(MetadataCatalog.get(reader.name).get("json_file") or "").name
        # somebody's own registration under a name of ours stays
        if present == reader or (type(present) is not type(reader) and known not in _files_of(reader.name)):
            return
        DatasetCatalog.remove(reader.name)
        MetadataCatalog.remove(reader.name)
    DatasetCatalog.register(reader.name, reader)
    MetadataCatalog.get(reader.name).set(**reader.facts())


def _files_of(name: str) -> tuple[str, ...]:
    return LVIS[name][0] if name in LVIS else (f"zhiyuan_objv2_{SPLITS[name]}.json",)


def require_datasets(names: str | Sequence[str]) -> None:
    """Register the data sets and raise UserError where one is unknown or has no annotation file or image folder.

    Beside COCO, LVIS, Objects365 and what was registered by hand, a name `<set>_<split>` is found where the root holds
    `<set>/annotations/instances_<split>.json` and `<set>/<split>/` with the images.
    """
    register_builtin()
    for name in _as_list(names):
        find_dataset(name)
        if isinstance(reader := DatasetCatalog[name], LvisRecords):
            make_minival(reader, datasets_root())
        _require_files(name)


def find_dataset(name: str) -> None:
    """UserError unless the name is registered, or can be by the layout of its folder; follows a change of root."""
    found_under = MetadataCatalog.get(name).get("found_under") if name in DatasetCatalog.list() else None
    if name not in DatasetCatalog.list() or found_under not in (None, str(datasets_root())):
        _register_by_layout(name)


def require_config_datasets(config: DictConfig, *, training: bool = True) -> None:
    """`require_datasets` for the test set that a config names, and for its training set unless it is to be evaluated only."""
    for part in ("train", "test") if training else ("test",):
        names = OmegaConf.select(config, f"dataloader.{part}.dataset.names", default=None)
        if names:
            require_datasets(names)


def load_dataset(names: str | Sequence[str], filter_empty: bool = True, first: int | None = None) -> list[dict[str, Any]]:
    """The checked records of one or several data sets (see `validate`); data sets are registered on the way.

    filter_empty: leave out images without an object to learn from. first: at most so many of the records that remain.
    """
    names = _as_list(names)
    require_datasets(names)
    if set(TRAINVAL_PARTS) <= set(names):
        log.warning(
            "Objects365 train and val are put together, as the released models saw them: AP on val is that of training data"
        )
    files = [MetadataCatalog.get(name).get("json_file") for name in names]
    try:
        records = get_detection_dataset_dicts(names, filter_empty=False)
    except json.JSONDecodeError as error:
        raise UserError(f"{', '.join(map(str, files))}: not valid JSON ({error}); download the annotations again") from error
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{', '.join(map(str, files))}: not usable as annotations ({reason}); correct the file, whose faults "
            "tools/check_datasets.py lists"
        ) from error
    check_records(records, [file for file in files if file])
    if not filter_empty:
        return records[:first]
    kept = [record for record in records if has_objects(record)]
    log.info("%d of %d images of %s have objects and are used", len(kept), len(records), ", ".join(names))
    if not kept:
        raise UserError(f"no image of {', '.join(names)} has an annotated object, so there is nothing to train on")
    return kept[:first]


def _as_list(names: str | Iterable[str]) -> list[str]:
    """The names, that of Objects365's train+val as its two parts."""
    given = [names] if isinstance(names, str) else list(names)
    return [part for name in given for part in (TRAINVAL_PARTS if name == TRAINVAL else (name,))]


def _register_by_layout(name: str) -> None:
    folder, _, split = name.rpartition("_")
    home = datasets_root() / folder
    annotations = home / "annotations" / f"instances_{split}.json"
    if not folder or not home.is_dir():
        raise UserError(
            f"data set {name!r} is not known: it is neither COCO's nor registered, and there is no {annotations}; "
            "correct its name, or set DETECTRON2_DATASETS to the folder that holds it"
        )
    register_coco_style(name, annotations, home / split)
    MetadataCatalog.get(name).set(found_under=str(datasets_root()))


def _require_files(name: str) -> None:
    known = MetadataCatalog.get(name)
    for what, path, is_there in (
        ("annotation file", known.get("json_file"), os.path.isfile),
        ("image folder", known.get("image_root"), os.path.isdir),
    ):
        if path and "://" not in path and not is_there(path):
            raise UserError(
                f"data set {name!r} lacks its {what} {path}; download it, or set DETECTRON2_DATASETS "
                f"(now {str(datasets_root())!r}) to the folder that holds the data sets"
            )
