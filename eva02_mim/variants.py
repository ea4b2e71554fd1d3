"""The variants of ImageNet-1K that Table 6 scores a classifier on."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import nn

from eva02_det.utils.errors import UserError
from eva02_det.utils.sources.files import ImageFolder
from eva02_mim.accuracy import Questions, Reading, padded, score
from eva02_mim.imagenet import CLASSES, class_ids, real_labels, rows_of_ids, rows_of_subset, validation_number
from eva02_mim.labelled import EvaluationCrop, class_folder
from eva02_mim.normalise import CLIP_MEAN, CLIP_STD, Normalise
from eva02_mim.objectnet import find_parts, rows_of_folders

logger = logging.getLogger(__name__)

NAMED = 3  # folders that a sentence names
RED_BORDER_PX = 2  # that ObjectNet's own evaluation template cuts off; the licence asks for one of 1 px


@dataclass(frozen=True)
class Variant:
    """A set of images, how it lies on disk and how it is scored."""

    title: str
    images: int  # that are scored, as published
    find: Callable[[Path], Questions]
    border_px: int = 0
    averaged: bool = True  # a column of Table 6's average


def evaluate_variant(
    model: nn.Module,
    name: str,
    folder: str | Path,
    *,
    image_size: int,
    crop_ratio: float = 1.0,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device = "cpu",
    interpolation: str = "bicubic",
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    precision: str = "fp32",
) -> dict[str, float]:
    """{"top1", "top5"} in per cent of "images"; for "real" also "skipped", the images without a label.

    With several processes all must call this; each reads its part and all get the result of the whole.

    Args:
        model: normalised images [B, 3, image_size, image_size] -> logits [B, 1000] of ImageNet-1K, on `device`.
        name: of VARIANTS.
        folder: in the published layout of the variant.
        image_size: of the model's input, px: any, where the published loaders of "v2" and "objectnet" always take 448.
        crop_ratio: part of the shorter side that the central crop keeps; 1 in the published evaluation.
        precision: "fp32", "bf16" or "fp16" of the model's arithmetic.

    Raises:
        UserError: for an unknown variant, a folder of another layout or with classes missing, an image that cannot be read,
            a model of other classes.
    """
    if name not in VARIANTS:
        raise UserError(f"{name} is no variant of ImageNet-1K that is known here; choose one of {', '.join(VARIANTS)}")
    variant, device = VARIANTS[name], torch.device(device)
    reading = Reading(
        side=image_size,
        crop=EvaluationCrop(crop_ratio, interpolation, variant.border_px),
        normalise=Normalise(mean, std).to(device),
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision,
    )
    questions = variant.find(Path(folder).expanduser())
    wanted = (questions.right >= 0).any(1)  # ReaL's annotators agreed on no label for some images
    asked = replace(questions, numbers=questions.numbers[wanted], right=questions.right[wanted])
    if not len(asked.numbers):
        raise UserError(f"no image below {folder} has a label of {variant.title}; give the folder of the whole set")
    if len(asked.numbers) != variant.images:
        logger.warning("%s: %d images with labels in %s, published are %d", name, len(asked.numbers), folder, variant.images)
    found = score(model, asked, reading)
    return {**found, "skipped": int((~wanted).sum())} if name == "real" else found


def summary(results: Mapping[str, Mapping[str, float]]) -> str:
    """A table of results by the names of variants, and Table 6's average and gap where all of its columns are there.

    The average is that of the top-1 of ImageNet-1K and five variants, without ObjectNet; the gap what it lacks to ImageNet-1K.
    """
    rows = [
        (VARIANTS[name].title, f"{found['top1']:.3f}", f"{found['top5']:.3f}", int(found["images"]), int(found.get("skipped", 0)))
        for name, found in results.items()
    ]
    table = tabulate(rows, headers=("images", "top-1 %", "top-5 %", "scored", "skipped"), disable_numparse=True)
    columns = [name for name, variant in VARIANTS.items() if variant.averaged]
    missing = [name for name in columns if name not in results]
    if missing:
        return f"{table}\nno average: it needs {', '.join(missing)} as well"
    average, gap = average_and_gap(results)
    return f"{table}\naverage of {', '.join(columns)}: {average:.3f}, {gap:.3f} below ImageNet-1K"


def average_and_gap(results: Mapping[str, Mapping[str, float]]) -> tuple[float, float]:
    """Mean top-1 of the six columns of Table 6 without ObjectNet, and what it lies below ImageNet-1K's; in per cent."""
    average = float(np.mean([results[name]["top1"] for name, variant in VARIANTS.items() if variant.averaged]))
    return average, results["imagenet"]["top1"] - average


def _of_folders(title: str, rows: Callable[[], Mapping[str, int]], subset: bool, root: Path) -> Questions:
    """One folder for each key of `rows`. subset: only its rows compete."""
    found, row_of = class_folder(root), rows()
    _require_folders(title, root, found.classes, row_of)
    right = np.array([row_of[name] for name in found.classes], dtype=np.int64)[found.labels]
    competing = np.array([row_of[name] for name in sorted(row_of)], dtype=np.int64) if subset else None
    return Questions(found.source, np.arange(len(right)), right[:, None], CLASSES, competing)


def _require_folders(
    title: str, root: Path, found: Sequence[str], expected: Mapping[str, object], *, others: bool = False
) -> None:
    """UserError unless there is a folder with images for each expected name and, unless `others` may be, for no other."""
    missing, unknown = sorted(set(expected) - set(found)), [] if others else sorted(set(found) - set(expected))
    parts = [
        f"{len(names)} of its {count} class folders are {what} ({_some(names)})"
        for names, count, what in ((missing, len(expected), "missing or empty"), (unknown, len(found), "unknown to it"))
        if names
    ]
    if parts:
        example = f"{min(expected)} to {max(expected)}"
        raise UserError(f"{root} is not {title}: {' and '.join(parts)}; give the folder that holds those from {example}")


def _some(names: Sequence[str]) -> str:
    """The first few of them."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _of_real_labels(root: Path) -> Questions:
    """The validation images in any folders, found by their file names."""
    source, labels = ImageFolder(root), real_labels()
    right = [labels[validation_number(source.name(number))] for number in range(len(source))]
    return Questions(source, np.arange(len(right)), padded(right), CLASSES)


def _of_objectnet(every_id: bool, folder: Path) -> Questions:
    """The images of the 113 classes that ImageNet has too. every_id: not only the first ImageNet id of a class is right."""
    images, mappings = find_parts(folder)
    rows, found = rows_of_folders(mappings), class_folder(images)
    _require_folders("ObjectNet", images, found.classes, rows, others=True)
    right = [rows.get(name, ())[: None if every_id else 1] for name in found.classes]
    numbers = np.flatnonzero(np.array([bool(some) for some in right])[found.labels])
    return Questions(found.source, numbers, padded(right)[found.labels[numbers]], CLASSES)


def _rows_of_v2() -> dict[str, int]:
    """The folders of V2 are called by their rows."""
    return {str(row): row for row in range(len(class_ids()))}


def _folders(title: str, images: int, rows: Callable[[], Mapping[str, int]], *, subset: bool = False) -> Variant:
    return Variant(title, images, partial(_of_folders, title, rows, subset))


VARIANTS: dict[str, Variant] = {
    "imagenet": _folders("ImageNet-1K", 50_000, rows_of_ids),
    "v2": _folders("ImageNet-V2 (matched frequency)", 10_000, _rows_of_v2),
    "real": Variant("ImageNet-ReaL", 46_837, _of_real_labels),
    "a": _folders("ImageNet-A", 7_500, partial(rows_of_subset, "a"), subset=True),
    "r": _folders("ImageNet-R", 30_000, partial(rows_of_subset, "r"), subset=True),
    "sketch": _folders("ImageNet-Sketch", 50_889, rows_of_ids),
    # as published: the first ImageNet id of a class is right, all 1000 rows compete, and the red border stays
    "objectnet": Variant("ObjectNet", 18_574, partial(_of_objectnet, False), averaged=False),
    "objectnet_all_ids": Variant(
        "ObjectNet, every id, no border", 18_574, partial(_of_objectnet, True), border_px=RED_BORDER_PX, averaged=False
    ),
}
