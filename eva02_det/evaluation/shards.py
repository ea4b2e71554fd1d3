"""Predictions in files: every rank writes its own, and they can be scored at any later time without a model."""

import json
import logging
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eva02_det.evaluation.predictions import Predictions
from eva02_det.evaluation.runs import Runs
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import atomic_path, write_json

FOLDER = "predictions"
DESCRIPTION = "description.json"
FORMAT = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Description:
    """What the shards of a folder are and how they are to be scored."""

    benchmark: str  # of RULES in rules.py
    dataset: str
    annotation_file: str
    ranks: int
    max_detections: list[int]
    split: str | None = None  # "val", "minival" where the data set says so
    category_ids: list[int] | None = None  # by class index; None: the annotation file's, sorted
    tasks: list[str] | None = None  # None: boxes, and masks where both sides have them
    backend: str = "hotcoco"
    area_bins: str = "standard"
    image_ids: list[int | str] | None = None  # only these images count
    seen_only: bool = False  # only images with predictions count
    write_results: bool = False  # also as one JSON file in COCO's format


class ShardWriter:
    """Writes the predictions of one rank, part by part."""

    def __init__(self, folder: str | Path, rank: int, ranks: int) -> None:
        self.folder = Path(folder) / FOLDER
        self.rank, self.ranks = rank, ranks
        self.parts = self.images = self.detections = 0
        self.masks = False

    def clear(self) -> None:
        """Remove what an earlier pass left: this rank's files; on rank 0 the description and the shards of other counts of ranks
        as well, which no rank of now writes."""
        for path in self.folder.glob("rank*-of-*"):
            written_by = _name(self.rank, self.ranks)
            others = self.rank == 0 and f"-of-{self.ranks:05d}" not in path.name
            if others or path.name.startswith(written_by):
                path.unlink(missing_ok=True)
        if self.rank == 0:
            (self.folder / DESCRIPTION).unlink(missing_ok=True)

    def write(self, predictions: Predictions) -> None:
        """Add a part."""
        columns: dict[str, Any] = {name: getattr(predictions, name) for name in _PLAIN}
        if predictions.masks is not None:
            columns |= {"mask_text": predictions.masks.text, "mask_ends": predictions.masks.ends}
        if predictions.mask_scores is not None:
            columns["mask_scores"] = predictions.mask_scores
        with atomic_path(_part(self.folder, self.rank, self.ranks, self.parts)) as path, path.open("wb") as stream:
            np.savez(stream, **columns)
        self.parts += 1
        self.images += len(predictions.image_ids)
        self.detections += len(predictions)
        self.masks |= predictions.masks is not None

    def finish(self) -> None:
        """Say that nothing follows; without this file the rank counts as missing."""
        counts = {"parts": self.parts, "images": self.images, "detections": self.detections, "masks": self.masks}
        write_json(self.folder / f"{_name(self.rank, self.ranks)}.json", counts)


def write_description(folder: str | Path, description: Description) -> None:
    """Make the folder's shards readable for `Shards`."""
    write_json(Path(folder) / FOLDER / DESCRIPTION, {"format": FORMAT, **asdict(description)}, indent=1)


def read_description(folder: str | Path) -> Description:
    """UserError where there is none, or one of another version."""
    path = Path(folder) / FOLDER / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; give the output folder of an evaluation") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); evaluate again") from error
    if content.pop("format", None) != FORMAT or content.keys() - {field.name for field in fields(Description)}:
        raise UserError(f"{path} was written by another version of this program; evaluate again")
    return Description(**content)


def is_complete(folder: str | Path) -> bool:
    """Whether every rank has written all of its predictions there."""
    try:
        Shards(folder, read_description(folder).ranks)
    except UserError:
        return False
    return True


class Shards:
    """The parts of all ranks, one after the other, each image once; may be gone through again."""

    def __init__(self, folder: str | Path, ranks: int, *, read_masks: bool = True) -> None:
        """read_masks: whether the masks are read too, which takes memory. UserError where the shard of a rank is missing."""
        self.home = Path(folder) / FOLDER
        self.ranks, self.read_masks = ranks, read_masks
        missing = [rank for rank in range(ranks) if not (self.home / f"{_name(rank, ranks)}.json").is_file()]
        if missing:
            raise UserError(
                f"{len(missing)} of {ranks} ranks wrote no complete shard to {self.home} (the first: rank {missing[0]}); "
                "evaluate again, and let output_dir lie on a file system that all ranks share"
            )
        self.counts = [json.loads((self.home / f"{_name(rank, ranks)}.json").read_text()) for rank in range(ranks)]

    @property
    def with_masks(self) -> bool:
        """Whether the detector makes masks."""
        return any(counts["masks"] for counts in self.counts)

    def __iter__(self) -> Iterator[Predictions]:
        """UserError where a part is missing or damaged."""
        return each_image_once(part for rank in range(self.ranks) for part in self._of_rank(rank))

    def image_ids(self) -> NDArray[Any]:
        """Ids of all images, ascending."""
        ids = [column for rank in range(self.ranks) for path in self._files_of(rank) for column in _columns(path, ["image_ids"])]
        return np.unique(np.concatenate(ids)) if ids else np.zeros(0, np.int64)

    def _of_rank(self, rank: int) -> Iterator[Predictions]:
        images, evaluated = 0, self.counts[rank]["images"]
        for path in self._files_of(rank):
            part = _read(path, self.read_masks)
            images += len(part.image_ids)
            yield part
        if images != evaluated:
            raise UserError(f"rank {rank} evaluated {evaluated} images but {self.home} holds {images} of them; evaluate again")

    def _files_of(self, rank: int) -> list[Path]:
        return [_part(self.home, rank, self.ranks, number) for number in range(self.counts[rank]["parts"])]


def each_image_once(parts: Iterable[Predictions]) -> Iterator[Predictions]:
    """The parts without the images that came before. Samplers repeat images to share them evenly among ranks."""
    seen: set[Any] = set()
    repeated = 0
    for part in parts:
        ids = part.image_ids.tolist()
        fresh = np.zeros(len(ids), bool)
        for row, one in enumerate(ids):
            fresh[row] = one not in seen
            seen.add(one)
        repeated += len(ids) - int(fresh.sum())
        yield part if fresh.all() else part.of_images(fresh)
    if repeated:
        log.warning("%d images were evaluated more than once; their first predictions count", repeated)


_PLAIN = ("image_ids", "sizes", "image", "boxes", "scores", "classes")


def _name(rank: int, ranks: int) -> str:
    return f"rank-{rank:05d}-of-{ranks:05d}"


def _part(home: Path, rank: int, ranks: int, number: int) -> Path:
    return home / f"{_name(rank, ranks)}-part-{number:05d}.npz"


def _read(path: Path, masks: bool) -> Predictions:
    *plain, mask_scores = _columns(path, [*_PLAIN, "mask_scores"])
    text, ends = _columns(path, ["mask_text", "mask_ends"]) if masks else (None, None)
    return Predictions(*plain, masks=None if ends is None else Runs(text, ends), mask_scores=mask_scores)


def _columns(path: Path, names: Sequence[str]) -> list[Any]:
    """Columns of a part, None for one that it has not; UserError where it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as columns:
            return [columns.get(name) for name in names]
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing, though its rank wrote it; evaluate again") from error
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); evaluate again") from error
