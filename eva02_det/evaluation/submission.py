"""Files for a benchmark's test server from the predictions that an evaluation wrote: boxes and masks apart, each zipped."""

import json
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from eva02_det.evaluation import runs
from eva02_det.evaluation.predictions import ImageId, Predictions
from eva02_det.evaluation.rules import TASKS, best, require_labels
from eva02_det.evaluation.shards import Description, Shards, read_description
from eva02_det.evaluation.truth import read_truth
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import atomic_path

# COCO's server cut each image to 100 detections of all classes before it scored (its log in ozendelait/rvc_devkit issue 68);
# the benchmark's program alone counts 100 of each class. LVIS's program takes 300 of an image.
PER_IMAGE = {"coco": 100, "lvis": 300}
# no limit is stated; zips of 300 and 380 MB failed for want of memory (codalab-competitions issue 3330, FastInst issue 19)
LARGEST_ZIP_BYTES = 300_000_000
BOX_DECIMALS = 2  # of a pixel; COCO suggests 1
ALGORITHM = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
NO_DATE = (1980, 1, 1, 0, 0, 0)  # the same predictions give the same zip, byte by byte


@dataclass(frozen=True)
class Written:
    """The submission of one task."""

    task: str
    json_file: Path
    zip_file: Path
    images: int  # with detections
    detections: int
    left_out: int  # by the cap
    calibrated: bool  # whether the masks have scores of their own

    def sentence(self) -> str:
        """What was written, in one line."""
        scores = "mask scores" if self.calibrated and self.task == "segm" else "scores of the boxes"
        size = self.zip_file.stat().st_size / 1e6
        return (
            f"{self.task}: {self.detections} detections in {self.images} images, ranked by the {scores}, "
            f"{self.left_out} left out by the cap; {self.zip_file} ({size:.1f} MB)"
        )


def write_submission(
    folder: str | Path,
    out: str | Path,
    algorithm: str,
    *,
    tasks: Sequence[str] | None = None,
    per_image: int | None = None,
    box_decimals: int = BOX_DECIMALS,
    image_ids: Iterable[ImageId] | None = None,
) -> list[Written]:
    """`<out>/<task>/<server's name>.json` and `.zip` for boxes and, where there are any, masks.

    folder: output_dir of an evaluator, of any number of ranks. Boxes are ranked by the detector's scores, masks by those
    calibrated for masks: one pass of the model serves both files. In each image the best `per_image` remain (None: as many as
    the server takes), best first. image_ids: only these images. At no time is more than one part of a rank in memory.
    """
    description = read_description(folder)
    wants_masks = "segm" in (tasks or TASKS)
    shards = Shards(folder, description.ranks, read_masks=wants_masks)
    tasks = list(tasks or (TASKS if shards.with_masks else TASKS[:1]))
    if "segm" in tasks and not shards.with_masks:
        raise UserError(f"the predictions in {folder} have no masks; ask for the task bbox alone")
    limit = PER_IMAGE[description.benchmark] if per_image is None else per_image
    if limit < 1:
        raise UserError(f"at most {limit} detections per image leave nothing to submit; give at least 1")
    stem = file_stem(description.benchmark, description.dataset, algorithm)
    categories = description.category_ids or read_truth(description.annotation_file, masks=False).category_ids.tolist()
    wanted = None if image_ids is None else np.array(sorted(image_ids))
    with ExitStack() as stack:
        sheets = [_Sheet(task, Path(out) / task / stem, categories, limit, box_decimals, stack) for task in tasks]
        for part in _parts(shards, description, wanted, len(categories)):
            for sheet in sheets:
                sheet.add(part)
        for sheet in sheets:
            sheet.end()
    return [sheet.zipped() for sheet in sheets]


def file_stem(benchmark: str, dataset: str, algorithm: str) -> str:
    """Name of the files without ending: COCO's `detections_<test set>_<algorithm>_results`; LVIS states none."""
    if not re.fullmatch(ALGORITHM, algorithm):
        raise UserError(f"the name {algorithm!r} becomes part of file names; give letters, digits, - and _ alone")
    return name_pattern(benchmark, dataset).replace("*", algorithm)


def name_pattern(benchmark: str, dataset: str) -> str:
    """The same with * in the place of the algorithm."""
    year = re.fullmatch(r"coco_(\d{4})_(.+)", dataset)
    test_set = f"{year[2]}{year[1]}" if year else dataset
    return f"detections_{test_set}_*_results" if benchmark == "coco" else f"{test_set}_*_results"


def entries(
    part: Predictions, task: str, rows: NDArray[np.integer], category_ids: Sequence[int] | Mapping[int, int], decimals: int
) -> Iterator[dict[str, Any]]:
    """These detections as the server reads them: a box or a mask, never both."""
    ids, sizes = part.image_ids.tolist(), part.sizes.tolist()
    image, labels = part.image[rows].tolist(), part.classes[rows].tolist()
    boxes = np.round(part.boxes[rows].astype(np.float64), decimals).tolist()
    # as text and back: the shortest number that still is this one in single precision, so that no ranks change
    scores = [float(text) for text in _scores(part, task)[rows].astype(str)]
    for place, row in enumerate(rows.tolist()):
        entry = {"image_id": ids[image[place]], "category_id": category_ids[labels[place]]}
        if task == "segm":
            assert part.masks is not None
            entry["segmentation"] = runs.as_result(part.masks[row], sizes[image[place]])
        else:
            entry["bbox"] = boxes[place]
        yield entry | {"score": scores[place]}


def chosen(part: Predictions, task: str, per_image: int) -> NDArray[np.int64]:
    """Rows of the `per_image` best of each image, image after image, best first; of equal scores the detector's order."""
    scores = _scores(part, task)
    rows = np.arange(len(part))
    if task == "segm":
        rows = np.flatnonzero(part.masks.sizes > 0) if part.masks is not None else rows[:0]
    rows = rows[best(part.image[rows], scores[rows], per_image)]
    return rows[np.lexsort((-scores[rows], part.image[rows]))]


class _Sheet:
    """One task's file while it is written."""

    def __init__(
        self, task: str, stem: Path, category_ids: Sequence[int], per_image: int, decimals: int, stack: ExitStack
    ) -> None:
        self.task, self.category_ids, self.per_image, self.decimals = task, category_ids, per_image, decimals
        self.json_file, self.zip_file = (stem.with_name(stem.name + end) for end in (".json", ".zip"))
        beside = stack.enter_context(atomic_path(self.json_file))
        self._stream: TextIO = stack.enter_context(beside.open("w", encoding="utf-8"))
        self.images = self.detections = self.left_out = 0
        self.calibrated = False
        self._stream.write("[")

    def add(self, part: Predictions) -> None:
        rows = chosen(part, self.task, self.per_image)
        for entry in entries(part, self.task, rows, self.category_ids, self.decimals):
            self._stream.write((",\n" if self.detections else "") + json.dumps(entry))
            self.detections += 1
        self.images += len(np.unique(part.image[rows]))
        there = len(part) if self.task == "bbox" or part.masks is None else int((part.masks.sizes > 0).sum())
        self.left_out += there - len(rows)
        self.calibrated |= part.mask_scores is not None

    def end(self) -> None:
        self._stream.write("]\n")
        self._stream.flush()

    def zipped(self) -> Written:
        """Pack the file, which is in its place now, without a folder: servers look for it at the top."""
        entry = zipfile.ZipInfo(self.json_file.name, NO_DATE)
        entry.compress_type = zipfile.ZIP_DEFLATED
        with ExitStack() as stack:
            path = stack.enter_context(atomic_path(self.zip_file))
            archive = stack.enter_context(zipfile.ZipFile(path, "w", compresslevel=9))
            source = stack.enter_context(self.json_file.open("rb"))
            huge = self.json_file.stat().st_size >= zipfile.ZIP64_LIMIT
            target = stack.enter_context(archive.open(entry, "w", force_zip64=huge))
            shutil.copyfileobj(source, target, 1 << 20)
        counts = (self.images, self.detections, self.left_out)
        return Written(self.task, self.json_file, self.zip_file, *counts, self.calibrated)


def _parts(shards: Shards, description: Description, wanted: NDArray[Any] | None, classes: int) -> Iterator[Predictions]:
    """The parts, checked, with the wanted images alone."""
    for part in shards:
        require_labels(part, classes, description.dataset)
        yield part if wanted is None else part.of_images(np.isin(part.image_ids, wanted))


def _scores(part: Predictions, task: str) -> NDArray[np.floating]:
    return part.mask_scores if task == "segm" and part.mask_scores is not None else part.scores
