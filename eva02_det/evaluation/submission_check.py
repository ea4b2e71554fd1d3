"""Holds a submission against what a test server asks of it; every fault becomes one sentence: what, where, the remedy."""

import fnmatch
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from eva02_det.evaluation.entry_check import EntryCheck
from eva02_det.evaluation.halves import half
from eva02_det.evaluation.json_list import elements
from eva02_det.evaluation.predictions import ImageId
from eva02_det.evaluation.rules import TASKS
from eva02_det.evaluation.submission import LARGEST_ZIP_BYTES, PER_IMAGE, name_pattern
from eva02_det.evaluation.truth import read_truth
from eva02_det.utils.errors import UserError


@dataclass(frozen=True)
class Expected:
    """What a submission is held against."""

    source: str  # what the sentences call the annotation file
    sizes: dict[ImageId, tuple[int, int]]  # height and width by image
    category_ids: frozenset[int]
    per_image: int
    name: str  # of the file without ending, * for the algorithm
    largest_zip_bytes: int = LARGEST_ZIP_BYTES


@dataclass
class Checked:
    """What came of it."""

    file: Path
    task: str | None = None
    detections: int = 0
    images: int = 0
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For a terminal."""
        head = f"{self.file}: {self.task or 'nothing'}, {self.detections} detections in {self.images} images"
        verdict = f"{len(self.faults)} faults" if self.faults else "no fault"
        remarks = [f"  note: {remark}" for remark in self.remarks]
        return [f"{head}: {verdict}", *(f"  fault: {fault}" for fault in self.faults), *remarks]


def expectations(
    annotations: str | Path,
    benchmark: str,
    dataset: str,
    *,
    per_image: int | None = None,
    which_half: str | None = None,
    largest_zip_bytes: int = LARGEST_ZIP_BYTES,
) -> Expected:
    """annotations: of the data set, or the image list of a test set. which_half: of its images, where only one is asked for."""
    truth = read_truth(str(annotations), masks=False)
    sizes = dict(zip(truth.image_ids.tolist(), map(tuple, truth.sizes.tolist())))
    if which_half is not None:
        sizes = {image: sizes[image] for image in half(sizes, which_half)}
    return Expected(
        source=Path(annotations).name,
        sizes=sizes,
        category_ids=frozenset(truth.category_ids.tolist()),
        per_image=PER_IMAGE[benchmark] if per_image is None else per_image,
        name=name_pattern(benchmark, dataset),
        largest_zip_bytes=largest_zip_bytes,
    )


def check_submission(file: str | Path, expected: Expected, *, task: str | None = None) -> Checked:
    """Look at a .zip, or the .json before it is packed. task: "bbox" or "segm"; None: what its first entry has.

    The file is read as a stream. Equal faults are told once, with their number and the first place.
    """
    if task not in (None, *TASKS):
        raise UserError(f"there is no task {task}; choose from {', '.join(TASKS)}")
    checked = Checked(Path(file), task)
    try:
        with _opened(checked, expected) as stream:
            if stream is not None:
                _check_entries(stream, checked, expected)
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist; give a .zip or .json that tools/write_submission.py wrote") from error
    return checked


@contextmanager
def _opened(checked: Checked, expected: Expected) -> Iterator[TextIO | None]:
    """The JSON inside; None where there is nothing to read. Faults of the packing are noted."""
    path = checked.file
    if path.suffix != ".zip":
        _check_name(path.name, ".json", checked, expected)
        with path.open(encoding="utf-8") as stream:
            yield stream
        return
    size = path.stat().st_size
    if size > expected.largest_zip_bytes:
        checked.faults.append(
            f"{path.name} has {size:,} bytes and {expected.largest_zip_bytes:,} are the most to be sure "
            "that it is scored; write fewer detections per image, or fewer decimals"
        )
    _check_name(path.name, ".zip", checked, expected)
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        checked.faults.append(f"{path.name} is no zip file, or only the beginning of one; pack it again")
        yield None
        return
    with archive:
        names = archive.namelist()
        if len(names) != 1:
            found = ", ".join(names[:3]) or "nothing"
            checked.faults.append(f"{path.name} holds {len(names)} files ({found}) in place of one; pack the JSON file alone")
            yield None
            return
        _check_name(names[0], ".json", checked, expected)
        with archive.open(names[0]) as content, io.TextIOWrapper(content, encoding="utf-8") as stream:
            yield stream


def _check_name(name: str, ending: str, checked: Checked, expected: Expected) -> None:
    if "/" in name:
        checked.faults.append(
            f"{name} lies in a folder of the zip, where servers do not look; pack the file itself, not its folder"
        )
        name = name.rpartition("/")[2]
    if not fnmatch.fnmatchcase(name, expected.name + ending):
        asked = expected.name.replace("*", "<algorithm>") + ending
        checked.faults.append(f"{name} is not what the server calls the file; rename it to {asked}")


def _check_entries(stream: TextIO, checked: Checked, expected: Expected) -> None:
    entries = EntryCheck(checked.task, expected.sizes, expected.category_ids, expected.per_image, expected.source)
    try:
        for entry in elements(stream):
            entries.add(entry)
    except (ValueError, zipfile.BadZipFile, zlib.error) as error:  # what is no UTF-8 is a ValueError too
        broken = f"{checked.file.name} is no whole JSON list: entry {entries.count}: {error}; write the file again"
        checked.faults.append(broken)
    checked.faults += entries.end()
    checked.task, checked.detections, checked.images = entries.task, entries.count, len(entries.per_image)
    if checked.faults and not entries.count:
        return
    if not entries.count:
        checked.faults.append(f"{checked.file.name} has no detection; look whether the model found any and write it again")
        return
    if empty := len(expected.sizes) - len(entries.per_image.keys() & expected.sizes.keys()):
        checked.remarks.append(f"{empty} of {len(expected.sizes)} images of {expected.source} have no detection")
    most = max(entries.per_image.values())
    checked.remarks.append(f"at most {most} detections in an image, {np.mean(list(entries.per_image.values())):.1f} on average")
