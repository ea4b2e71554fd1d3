"""The corpora that are searched: folders, lists and shards of images, annotation files, registered data sets."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from eva02_det.contamination.listing import Entry, Listing, Place
from eva02_det.contamination.record import ANY
from eva02_det.data.lvis import LVIS, LvisRecords, make_minival
from eva02_det.data.objects365 import SPLITS, TRAINVAL, TRAINVAL_PARTS
from eva02_det.data.paths import datasets_root
from eva02_det.data.registration import COCO, find_dataset, register_builtin
from eva02_det.utils.errors import UserError
from eva02_det.utils.sources.base import Source
from eva02_det.utils.sources.files import open_source

WITH_IMAGES = ".json@"  # FILE.json@FOLDER
_NAMED = re.compile(r"([A-Za-z0-9][\w.+-]*)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Corpus:
    """A named corpus. has_images: the images can be read, else only what an annotation file says of them is known."""

    name: str
    spec: str
    source: Source
    has_images: bool

    def __len__(self) -> int:
        return len(self.source)

    def entry(self, number: int) -> Entry:
        """What is known of an image without reading it; of one that no annotation file lists, the name alone."""
        if isinstance(self.source, Listing):
            return self.source.entry(number)
        return Entry(number, self.source.name(number), None, "")


def named_specs(texts: Sequence[str]) -> dict[str, str]:
    """NAME=SPEC, or SPEC that then gives the name -> {name: spec}. UserError for a name that is given twice."""
    specs: dict[str, str] = {}
    for text in texts:
        found = _NAMED.fullmatch(text)
        name, spec = (found[1], found[2]) if found else (name_of(text), text)
        if name in specs:
            raise UserError(f"two corpora are called {name}; write NAME={spec} with another name")
        if name == ANY:
            raise UserError(f"{ANY!r} stands for all corpora together in the report; give the corpus {spec} another name")
        specs[name] = spec
    return specs


def name_of(spec: str) -> str:
    """A short name for what has none: of the file or folder."""
    file = spec.partition(WITH_IMAGES)[0] if WITH_IMAGES in spec else spec
    stem = re.sub(r"\.(json|txt|parquet|tar)\b.*$", "", file.rstrip("/").rpartition("/")[2])
    return re.sub(r"(\{[^{}]*\}|[^\w.+-])+", "_", stem).strip("_-.") or "corpus"


def open_corpora(specs: dict[str, str], *, coco_ids: Iterable[str] = (), cache: str | Path | None = None) -> tuple[Corpus, ...]:
    """The corpora, indexed where they are not yet. coco_ids: those whose ids are COCO's though the file does not say so."""
    trusted = set(coco_ids)
    if strange := sorted(trusted - set(specs)):
        raise UserError(f"--coco-ids names {', '.join(strange)}, which is no corpus of this search; it has {', '.join(specs)}")
    if not specs:
        raise UserError("no corpus was given; write --corpus NAME=SPEC, a folder, list, shards, annotation file or data set")
    return tuple(_open(name, spec, name in trusted, cache) for name, spec in specs.items())


def _open(name: str, spec: str, coco_ids: bool, cache: str | Path | None) -> Corpus:
    place = place_of(spec, coco_ids=coco_ids)
    try:
        source = Listing.open(place, cache) if place else open_source(spec, cache=cache)
    except UserError as error:
        raise UserError(f"corpus {name}: {error}") from error
    return Corpus(name, spec, source, source.has_images if isinstance(source, Listing) else True)


def place_of(spec: str, *, coco_ids: bool = False) -> Place | None:
    """Where the annotations and images of a FILE.json, FILE.json@FOLDER or registered name lie; None for other sources."""
    if WITH_IMAGES in spec:
        file, _, root = spec.partition(WITH_IMAGES)
        if not Path(root).expanduser().is_dir():
            raise UserError(f"the image folder {root} of {spec} does not exist; correct it, or leave {root!r} and its @ out")
        return Place(_expanded(f"{file}.json"), _expanded(root), coco_ids)
    if spec.endswith(".json"):
        return Place(_expanded(spec), None, coco_ids)
    if "/" in spec or Path(spec).exists() or spec.endswith((".txt", ".parquet", ".tar")):
        return None
    return registered(spec, coco_ids=coco_ids)


def registered(name: str, *, coco_ids: bool = False) -> Place:
    """Where the files of a registered data set lie, whether they are there or not. UserError for an unknown name."""
    if name == TRAINVAL:
        raise UserError(f"{name} is two data sets; give {' and '.join(TRAINVAL_PARTS)}")
    register_builtin()
    find_dataset(name)
    if isinstance(reader := DatasetCatalog[name], LvisRecords):
        make_minival(reader, datasets_root())
    facts = MetadataCatalog.get(name)
    if not facts.get("json_file"):
        raise UserError(f"data set {name!r} has no annotation file; give its images as a folder, list or shards")
    if not Path(facts.json_file).is_file():
        raise UserError(
            f"data set {name!r} lacks its annotation file {facts.json_file}; download it, or set DETECTRON2_DATASETS "
            f"(now {str(datasets_root())!r}) to the folder that holds the data sets"
        )
    known = name in COCO or name in LVIS
    return Place(facts.json_file, facts.get("image_root") or None, coco_ids or known, SPLITS.get(name), name in LVIS)


def _expanded(path: str) -> str:
    return str(Path(path).expanduser()) if "://" not in path else path
