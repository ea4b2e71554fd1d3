"""A small LVIS-like data set with predictions of two detectors on disk, registered for a test."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.evaluation import scenes
from tests.evaluation.oracle import noisy_oracle

NAME, COCO_NAME = "study_test_val", "study_test_coco_val"
IMAGES = 70
SEEN = set(range(1, 36))


@contextmanager
def registered(folder: Path, content: dict[str, Any], name: str = NAME) -> Iterator[Path]:
    """The data set of an annotation file's content under a name; LVIS's where its images say what is absent."""
    file = folder / "truth.json"
    file.write_text(json.dumps(content))
    DatasetCatalog.register(name, list)  # no images are read
    kind = "lvis" if "neg_category_ids" in content["images"][0] else "coco"
    MetadataCatalog.get(name).set(json_file=str(file), evaluator_type=kind)
    try:
        yield file
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def write_arms(folder: Path, content: dict[str, Any]) -> dict[str, Path]:
    """Result files: `clean` sees all images badly, `seen` sees those of SEEN well and the others as badly."""
    bad = noisy_oracle(content, seed=1, blur=0.25, masks=False)
    other = noisy_oracle(content, seed=2, blur=0.25, masks=False)
    good = noisy_oracle(content, seed=3, blur=0.05, masks=False)
    seen = [one for one in good if one["image_id"] in SEEN] + [one for one in other if one["image_id"] not in SEEN]
    files = {"clean": folder / "clean.json", "seen": folder / "seen.json"}
    for file, results in zip(files.values(), (bad, seen)):
        file.write_text(json.dumps(results))
    return files


def content(federated: bool = True) -> dict[str, Any]:
    return (scenes.federated_truth if federated else scenes.ground_truth)(0, images=IMAGES)
