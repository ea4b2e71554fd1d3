"""What is left when the found images are taken away: of a corpus, to train on, or of the evaluation set, to measure with."""

import json
import logging
import os
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from eva02_det.contamination.corpus import Corpus, open_corpora
from eva02_det.contamination.evaluation_images import open_evaluation
from eva02_det.contamination.listing import Listing, stream, top_level_keys
from eva02_det.contamination.record import Record
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import atomic_path, write_json
from eva02_det.utils.sources import remote
from eva02_det.utils.sources.shards import TarShards

log = logging.getLogger(__name__)

_IMAGE_KEY = {"images": "id", "annotations": "image_id"}


@dataclass(frozen=True)
class Filtered:
    """file: what was written; beside a list of shards lie those that had to be written anew."""

    file: Path
    kept: int
    removed: int

    def __str__(self) -> str:
        return f"{self.file}: {self.kept} images, {self.removed} left out"


def clean_corpus(
    record: Record,
    name: str,
    out: str | Path,
    *,
    spec: str | None = None,
    unconfirmed: bool = False,
    cache: str | Path | None = None,
) -> Filtered:
    """Write a corpus without the images that show evaluation images: the same kind of source, or annotation file.

    A folder or list becomes a list of paths (.txt), an annotation file one of the same format (.json), shards a list of shards
    (.txt): those without a hit stay where they are, the others are copied without it. spec: where the corpus lies now, if not
    where it was searched. unconfirmed: leave out unconfirmed pairs too.
    """
    found = list(record.pairs([name], confirmed_only=not unconfirmed))
    about = next(corpus for corpus in record.data["corpora"] if corpus["name"] == name)
    corpus = _reopened(about, spec, cache)
    numbers = {pair["corpus_number"] for pair in found}
    if len(numbers) == len(corpus):
        raise UserError(f"every image of corpus {name} shows one of {record.evaluation}, so nothing would be left")
    target = Path(out)
    if isinstance(corpus.source, Listing):
        _require_ending(target, ".json", f"corpus {name} is an annotation file")
        filter_annotations(corpus.source.place.json_file, target, {pair["corpus_id"] for pair in found}.__contains__)
    elif isinstance(corpus.source, TarShards):
        _require_ending(target, ".txt", f"corpus {name} is a set of shards, of which a list is written")
        _write_lines(target, _clean_shards(corpus.source, numbers, target.with_suffix("")))
    else:
        _require_ending(target, ".txt", f"corpus {name} is a set of image files, of which a list is written")
        names = (corpus.source.name(number) for number in range(len(corpus)) if number not in numbers)
        _write_lines(target, (name if remote.is_remote(name) else os.path.abspath(name) for name in names))
    return Filtered(target, len(corpus) - len(numbers), len(numbers))


def clean_evaluation(
    record: Record,
    out: str | Path,
    *,
    corpora: Iterable[str] | None = None,
    contaminated: bool = False,
    unconfirmed: bool = False,
    ids_only: bool = False,
) -> Filtered:
    """Write the evaluation set's annotation file without the images that those corpora hold (all corpora without names).

    Everything else in it stays, LVIS's fields of images and categories too. contaminated: write those images instead of the rest.
    unconfirmed: count unconfirmed pairs too. ids_only: write a JSON list of the image ids alone.
    """
    target = Path(out)
    _require_ending(target, ".json", "the evaluation set is an annotation file")
    evaluation = open_evaluation(record.data["evaluation"].get("spec", record.evaluation))
    if evaluation.digest != record.data["evaluation"]["digest"]:
        raise UserError(f"the evaluation set {record.evaluation} is another one than when it was searched; search again")
    if evaluation.json_file is None and not ids_only:
        raise UserError(f"the evaluation set {record.evaluation} has no annotation file that could be filtered")
    ids = record.image_ids(corpora, confirmed_only=not unconfirmed)
    kept = [image.image_id for image in evaluation.images if (image.image_id in ids) == contaminated]
    if not kept:
        raise UserError(f"no image of {record.evaluation} would be left; choose other corpora, or the other part")
    if ids_only or evaluation.json_file is None:
        write_json(target, kept)
    else:
        filter_annotations(evaluation.json_file, target, lambda number: (number in ids) != contaminated)
    return Filtered(target, len(kept), len(evaluation.images) - len(kept))


def filter_annotations(source: str, target: Path, drops: Callable[[Any], bool]) -> None:
    """Copy an annotation file as a stream, without the images whose id `drops` names and without their annotations."""
    with atomic_path(target) as path, path.open("w", encoding="utf-8") as out:
        for number, key in enumerate(top_level_keys(source)):
            out.write(f"{', ' if number else '{'}{json.dumps(key)}: ")
            if key in _IMAGE_KEY:
                _write_list(out, (one for one in stream(source, key) if not drops(one[_IMAGE_KEY[key]])))
            else:
                json.dump(next(stream(source, key, whole=True)), out)
        out.write("}\n")


def _write_list(out: TextIO, entries: Iterable[Any]) -> None:
    out.write("[")
    for number, one in enumerate(entries):
        out.write((",\n" if number else "\n") + json.dumps(one))
    out.write("\n]")


def _reopened(about: dict[str, Any], spec: str | None, cache: str | Path | None) -> Corpus:
    """The corpus of a record; UserError where it is not what was searched."""
    trusted = [about["name"]] if about.get("coco_ids") else []
    try:
        (corpus,) = open_corpora({about["name"]: spec or about["spec"]}, coco_ids=trusted, cache=cache)
    except UserError as error:
        raise UserError(f"{error}; --spec says where it lies now") from error
    if corpus.source.digest != about["digest"]:
        raise UserError(f"the corpus {corpus.name} ({corpus.spec}) has other images than when it was searched; search again")
    return corpus


def _require_ending(target: Path, ending: str, why: str) -> None:
    if target.suffix != ending:
        raise UserError(f"{why}; give --out a name that ends in {ending}")


def _write_lines(target: Path, lines: Iterable[str]) -> None:
    with atomic_path(target) as path, path.open("wb") as out:
        out.writelines(os.fsencode(line) + b"\n" for line in lines)


def _clean_shards(source: TarShards, numbers: Collection[int], folder: Path) -> Iterator[str]:
    """Paths of the shards, those that held one of the images replaced by copies in `folder`."""
    members: dict[str, set[str]] = {}
    for number in numbers:
        shard = source.shards[source.shard_of(number)]
        members.setdefault(shard, set()).add(_sample(source.name(number).removeprefix(f"{shard}/")))
    for place, shard in enumerate(source.shards):
        if shard not in members:
            yield shard
            continue
        copy = folder / f"{place:05d}-{shard.rpartition('/')[2]}"
        if _copy_shard(shard, copy, members[shard]):
            yield str(copy.absolute())
        else:
            copy.unlink()
            log.info("nothing of %s is left", shard)


def _copy_shard(shard: str, target: Path, samples: set[str]) -> int:
    """Copy a shard without some samples: an image and the captions and labels of its name. Returns how many members are left."""
    kept = 0
    with (
        atomic_path(target) as path,
        remote.opened(shard) as stream,
        tarfile.open(fileobj=stream, mode="r:") as old,
        tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in old:
            if _sample(member.name) not in samples:
                new.addfile(member, old.extractfile(member) if member.isfile() else None)
                kept += member.isfile()
    return kept


def _sample(name: str) -> str:
    """What the members of a sample share: the name up to the first dot of its last part."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]
