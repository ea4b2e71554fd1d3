"""A report on a data set: what is there, what is missing, what is broken, with counts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from eva02_det.data.findings import Finding, inspect, read_annotation_file
from eva02_det.data.image_check import ImageFault, by_kind, check_images
from eva02_det.data.lvis import LVIS, LvisRecords, make_minival, relative_path
from eva02_det.data.objects365 import NEVER_RELEASED, SPLITS, ImageFinder, Objects365Records
from eva02_det.data.paths import datasets_root
from eva02_det.data.registration import COCO, TRAINVAL, TRAINVAL_PARTS, find_dataset, register_builtin
from eva02_det.utils.errors import UserError

KNOWN = (*COCO, *LVIS, *SPLITS)
OPTIONAL = ("lvis_v1_val_5k", "lvis_v1_val_cocofied", "lvis_v1_test_dev")  # not asked for unless they are there or named

Locate = Callable[[dict[str, Any]], str]


@dataclass(frozen=True)
class Report:
    """One data set. absent: why nothing could be looked at, else None. faults: of images, by kind."""

    name: str
    json_file: str
    image_root: str
    absent: str | None = None
    images: int = 0
    annotations: int = 0
    classes: int = 0
    findings: Sequence[Finding] = ()
    faults: dict[str, list[ImageFault]] = field(default_factory=dict)
    never_released: int = 0

    @property
    def is_usable(self) -> bool:
        """Whether a run on it would not end in an error."""
        return self.absent is None and not any(finding.fatal for finding in self.findings) and not self.faults

    def as_record(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "is_usable": self.is_usable}

    def lines(self) -> Iterator[str]:
        """The report in words, for people."""
        state = "ok" if self.is_usable else "NOT THERE" if self.absent else "FAULTY"
        if self.absent:
            yield f"{self.name}: {state}: {self.absent}"
            return
        yield f"{self.name}: {state}: {self.images} images, {self.annotations} annotations, {self.classes} classes"
        yield f"  annotations {self.json_file}"
        yield f"  images      {self.image_root}"
        for finding in self.findings:
            yield f"  {'fault' if finding.fatal else 'note'}: {finding}"
        for kind, faults in self.faults.items():
            first = f"{faults[0].path} {faults[0].detail}".strip()
            yield f"  fault: {len(faults)} images {kind} (the first: {first})"
        if self.never_released:
            yield f"  note: {self.never_released} images are listed that no archive of Objects365 contains; they are left out"


def check_named(names: Sequence[str] = (), *, depth: str = "header", workers: int = 4) -> Iterator[Report]:
    """Reports on data sets below DETECTRON2_DATASETS, each when it is done; without names, on all that are known by name."""
    register_builtin()
    given = [part for name in names for part in (TRAINVAL_PARTS if name == TRAINVAL else (name,))]
    reports = (_check_name(name, depth, workers) for name in given or KNOWN)
    yield from (report for report in reports if given or not (report.absent and report.name in OPTIONAL))


def check_files(json_file: str | Path, image_root: str | Path, *, depth: str = "header", workers: int = 4) -> Report:
    """A report on a user's own annotation file and images."""
    root = Path(image_root)
    return _check(str(json_file), str(json_file), str(root), lambda image: str(root / image["file_name"]), depth, workers)


def _check_name(name: str, depth: str, workers: int) -> Report:
    try:
        find_dataset(name)
    except UserError as error:
        return Report(name, "", "", absent=str(error))
    reader, facts = DatasetCatalog[name], MetadataCatalog.get(name)
    root = Path(facts.image_root)
    if isinstance(reader, LvisRecords):
        make_minival(reader, datasets_root())
        return _check(name, facts.json_file, str(root), lambda image: str(root / relative_path(image)), depth, workers)
    if isinstance(reader, Objects365Records):
        finder = ImageFinder(root, SPLITS[name])
        return _check(name, facts.json_file, str(root), lambda image: str(finder(image["file_name"])), depth, workers)
    return _check(name, facts.json_file, str(root), lambda image: str(root / image["file_name"]), depth, workers)


def _check(name: str, json_file: str, image_root: str, locate: Locate, depth: str, workers: int) -> Report:
    for what, path, there in (("annotation file", json_file, Path.is_file), ("image folder", image_root, Path.is_dir)):
        if not there(Path(path)):
            return Report(name, json_file, image_root, absent=f"its {what} {path} does not exist")
    try:
        content = read_annotation_file(json_file)
    except UserError as error:
        return Report(name, json_file, image_root, absent=str(error))
    findings = inspect(content)
    listed = [
        image for image in content["images"] if {"height", "width"} <= set(image) and {"file_name", "coco_url"} & set(image)
    ]
    faults = by_kind(check_images([(locate(one), one["height"], one["width"]) for one in listed], depth=depth, workers=workers))
    excused = [fault for fault in faults.get("missing", ()) if fault.path.endswith(NEVER_RELEASED)] if name in SPLITS else []
    missing = [fault for fault in faults.pop("missing", ()) if fault not in excused]
    return Report(
        name,
        json_file,
        image_root,
        images=len(content["images"]),
        annotations=len(content.get("annotations", ())),
        classes=len(content["categories"]),
        findings=findings,
        faults={**({"missing": missing} if missing else {}), **faults},
        never_released=len(excused),
    )
