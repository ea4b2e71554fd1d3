"""The model folder: weights, and a config.json that says how to build, feed and test the model, without anybody's configs."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from eva02_det.checkpoint.hub import MODEL_FILE
from eva02_det.engine.architecture import from_plain, to_plain
from eva02_det.engine.description import ModelDescription
from eva02_det.engine.images import Preprocessing
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_json

FORMAT = 1  # of config.json; raised when an older reader would misunderstand a newer file
CONFIG_FILE = "config.json"
INTERPOLATION = "bilinear"  # Pillow's, antialiased


def is_model_folder(path: str | Path) -> bool:
    """Whether the path is a folder that holds a config.json or weights, and is thus meant to be a model folder."""
    return Path(path).is_dir() and any((Path(path) / name).is_file() for name in (CONFIG_FILE, MODEL_FILE))


def load_folder(folder: str | Path) -> ModelDescription:
    """What the folder's config.json says, checked; `.load(folder)` of the result gives the model.

    UserError where it is missing, damaged, of a newer format, contradicts itself, or names anything but layers and models.
    """
    path = Path(folder) / CONFIG_FILE
    content = _read(path)
    for key, kind in (("architecture", dict), ("classes", list), ("preprocessing", dict)):
        if not isinstance(content.get(key), kind):
            raise UserError(f"{path} has no {key}, so it is no complete export; export the model again")
    if not all(isinstance(name, str) for name in content["classes"]):
        raise UserError(f"{path}: classes must be a list of names; export the model again")
    architecture = from_plain(content["architecture"], str(path))
    heads, named = OmegaConf.select(architecture, "roi_heads.num_classes"), len(content["classes"])
    if heads not in (None, named):
        raise UserError(f"{path} names {named} classes for a model with {heads}; correct its classes or export again")
    return ModelDescription(
        architecture=architecture,
        classes=tuple(content["classes"]),
        preprocessing=_preprocessing(content["preprocessing"], path),
        category_ids=tuple(content.get("category_ids") or ()),
        protocol=content.get("protocol") or {},
        dataset=(content.get("evaluation") or {}).get("dataset"),
        provenance=content.get("provenance") or {},
    )


def write_description(description: ModelDescription, folder: str | Path) -> None:
    """Write config.json."""
    content = {
        "format": FORMAT,
        "architecture": to_plain(description.architecture),
        "classes": list(description.classes),
        "category_ids": list(description.category_ids) or None,
        "preprocessing": {
            "image_format": "RGB",
            "interpolation": INTERPOLATION,
            **asdict(description.preprocessing),
            "pixel_mean": list(description.architecture.pixel_mean),
            "pixel_std": list(description.architecture.pixel_std),
        },
        "protocol": dict(description.protocol),
        "evaluation": {"dataset": description.dataset},
        "provenance": dict(description.provenance),
    }
    write_json(Path(folder) / CONFIG_FILE, content, indent=1)


def _read(path: Path) -> dict[str, Any]:
    """The JSON of a format that is known."""
    if not path.is_file():
        raise UserError(f"{path} does not exist, so {path.parent} is no model folder; give one that tools/export.py wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); copy or export the model again") from error
    version = content.get("format") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{path} states no format, so it is not of a model that tools/export.py wrote; give such a folder")
    if version > FORMAT:
        raise UserError(f"{path} is of format {version}, this eva02_det reads up to {FORMAT}; update eva02_det to read it")
    return content


def _preprocessing(stored: Mapping[str, Any], path: Path) -> Preprocessing:
    sides = [stored.get(name) for name in ("short_side_px", "long_side_px")]
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"{path}: preprocessing lacks short_side_px or long_side_px, in whole px; export the model again")
    for name, known in (("image_format", "RGB"), ("interpolation", INTERPOLATION)):
        if stored.get(name, known) != known:
            raise UserError(
                f"{path}: {name} {stored[name]!r} of preprocessing is not known, only {known}; export the model again"
            )
    return Preprocessing(*sides)
