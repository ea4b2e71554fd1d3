"""How much a frozen network tells about the classes of images: a linear classifier and the nearest neighbours of its features."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import Tensor

from eva02_det.checkpoint.io import write_weights
from eva02_det.launch.process_group import leave
from eva02_det.utils.config import apply_overrides, get, load_config
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_json
from eva02_mim.accuracy import BEST
from eva02_mim.build import device_of
from eva02_mim.crops import Crop
from eva02_mim.features import Extraction, FeatureSet, features_of
from eva02_mim.labelled import ClassFolder, EvaluationCrop
from eva02_mim.linear import CHUNK, LinearProbe
from eva02_mim.precision import PRECISIONS
from eva02_mim.readout import Readout

logger = logging.getLogger(__name__)

PARTS = ("readout", "dataloader", "solver", "train")
RESULTS, HEAD = "results.json", "head.safetensors"


@dataclass(frozen=True)
class Sets:
    """Images to learn from and to be scored on; `validation.labels` count the classes of `train`."""

    train: ClassFolder
    validation: ClassFolder


def load_probe(file: str | Path, overrides: list[str] | None = None) -> DictConfig:
    """The config of a probe; UserError for a file that is none, an unknown key or a value that cannot be."""
    config = load_config(file)
    missing = [part for part in PARTS if get(config, part) is None]
    if missing:
        raise UserError(f"{file} is no config of a probe, it lacks {', '.join(missing)}; start from probe_imagenet.py")
    apply_overrides(config, overrides or ())
    if config.train.precision not in PRECISIONS:
        raise UserError(f"train.precision={config.train.precision} is not one of {', '.join(PRECISIONS)}")
    for key in ("train.batch", "dataloader.workers", "dataloader.augmented_passes"):
        if get(config, key, 0) < (key == "train.batch"):
            raise UserError(f"{key}={get(config, key)} is too small")
    device_of(config)
    return config


def probe(config: DictConfig) -> dict[str, Any] | None:
    """Run a probe: results as they are written to results.json of the output folder; None in all processes but the first.

    Features are computed by all processes; what follows is for the first one alone.
    """
    settings, device = config.train, device_of(config)
    readout = instantiate(config.readout).to(device)
    sets = matched(instantiate(config.dataloader.train), instantiate(config.dataloader.validation))
    output = Path(settings.output_dir)
    crop, random_crop = instantiate(config.dataloader.crop), instantiate(config.dataloader.augment)
    passes = config.dataloader.augmented_passes
    train = _features(readout, sets.train, output / "features/train", config, random_crop if passes else crop, max(passes, 1))
    validation = _features(readout, sets.validation, output / "features/validation", config, crop, 1)
    main = comm.is_main_process()
    leave()
    return _scored(config, sets, train, validation, device) if main else None


def matched(learnt: ClassFolder, asked: ClassFolder) -> Sets:
    """Both sets; UserError where a class of the second is not in the first, or there is nothing to tell apart."""
    if len(learnt.classes) < 2:
        raise UserError(f"{learnt.root} holds the one class {learnt.classes[0]}; a classifier needs two or more")
    place = {name: number for number, name in enumerate(learnt.classes)}
    unknown = [name for name in asked.classes if name not in place]
    if unknown:
        raise UserError(
            f"{asked.root} has {len(unknown)} classes that {learnt.root} has not ({', '.join(unknown[:3])}); give both the "
            f"same class folders"
        )
    labels = np.array([place[name] for name in asked.classes], dtype=np.int64)[asked.labels]
    return Sets(learnt, ClassFolder(asked.root, asked.source, learnt.classes, labels))


def _features(readout: Readout, folder: ClassFolder, kept: Path, config: DictConfig, crop: Crop, visits: int) -> FeatureSet:
    settings = config.train
    seed = 0 if isinstance(crop, EvaluationCrop) else settings.seed  # a fixed crop draws nothing: any seed gives its features
    how = Extraction(crop, device_of(config), visits, seed, settings.precision, settings.batch, config.dataloader.workers)
    return features_of(readout, folder, kept, how)


def _scored(config: DictConfig, sets: Sets, train: FeatureSet, validation: FeatureSet, device: torch.device) -> dict[str, Any]:
    """Solve, score, and write head and results."""
    output, classes = Path(config.train.output_dir), len(sets.train.classes)
    head: LinearProbe = instantiate(config.solver)(train.values, train.labels, train.images, classes, device)
    results: dict[str, Any] = {
        "linear": {**linear_scores(head, validation, device), "l2": head.l2, "iterations": head.iterations},
        "train_images": train.images,
        "train_crops": len(train.labels),
        "images": validation.images,
        "classes": classes,
    }
    neighbours = instantiate(config.neighbours) if get(config, "neighbours") is not None else None
    if neighbours is not None:
        found = neighbours(train.values, train.labels, validation.values, validation.labels, classes, device)
        results["neighbours"] = {**found, "k": neighbours.k, "temperature": neighbours.temperature}
    weights: dict[str, Tensor] = {"weight": head.weight.float().cpu(), "bias": head.bias.float().cpu()}
    write_weights(output / HEAD, weights, {"format": "pt"})
    write_json(output / RESULTS, results, indent=2)
    return results


def linear_scores(head: LinearProbe, features: FeatureSet, device: torch.device) -> dict[str, float]:
    """{"top1", "top5"} in per cent of the images."""
    solved = torch.zeros(2, dtype=torch.int64)
    for first in range(0, len(features.labels), CHUNK):
        part = slice(first, first + CHUNK)
        best = head.logits(torch.from_numpy(features.values[part]).to(device)).topk(min(BEST, len(head.bias)), dim=1).indices
        right = best.cpu() == torch.from_numpy(features.labels[part])[:, None]
        solved += torch.stack((right[:, 0].sum(), right.any(1).sum()))
    top1, top5 = (100 * solved / len(features.labels)).tolist()
    return {"top1": top1, "top5": top5}


def report(results: dict[str, Any]) -> str:
    """Results in lines for a person."""
    linear, near = results["linear"], results.get("neighbours")
    rows = [("linear", linear, f"l2 {linear['l2']:g}, {linear['iterations']} iterations")]
    rows += [("neighbours", near, f"k {near['k']}, temperature {near['temperature']:g}")] if near else []
    lines = [f"{name:<10}  top-1 {found['top1']:.3f} %  top-5 {found['top5']:.3f} %  ({how})" for name, found, how in rows]
    lines.append(
        f"of {results['images']:,} images in {results['classes']:,} classes; learnt from {results['train_crops']:,} crops of "
        f"{results['train_images']:,} images"
    )
    return "\n".join(lines)
