"""The search for an evaluation set's images in corpora: index the set, search shard by shard, put the results together."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import PIL

import eva02_det
from eva02_det.contamination.affected import affected
from eva02_det.contamination.corpus import Corpus
from eva02_det.contamination.evaluation_images import EvaluationSet
from eva02_det.contamination.evaluation_index import PART_IMAGES, Part, make_part
from eva02_det.contamination.listing import Listing
from eva02_det.contamination.record import FORMAT, Record
from eva02_det.contamination.settings import FINGERPRINT, Settings
from eva02_det.contamination.shard import Searcher, Task, shown
from eva02_det.contamination.work import Progress, Work, in_processes
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_json, write_text

if TYPE_CHECKING:  # brings torch and faiss along
    from eva02_det.contamination.embeddings import Embedder

log = logging.getLogger(__name__)

NAMED = 5  # missing shards in a sentence


@dataclass(frozen=True)
class Search:
    """What is searched for what, how, and where the work is kept. Picklable: every process gets it."""

    corpora: tuple[Corpus, ...]
    evaluation: EvaluationSet
    settings: Settings
    folder: Path

    @property
    def reads_all(self) -> bool:
        """Whether images of a corpus are read one after the other; else nothing needs the pixels of the evaluation set."""
        return self.settings.reads_all and any(corpus.has_images for corpus in self.corpora)

    def claim(self) -> Work:
        """The work folder; UserError where it belongs to another search."""
        facts = {
            "evaluation": [self.evaluation.spec, self.evaluation.digest],
            "corpora": [[corpus.name, corpus.spec, corpus.source.digest, corpus.has_images] for corpus in self.corpora],
            "settings": self.settings.facts(),
            "shard_images": self.settings.shard_images,
            "versions": versions(),
        }
        work = Work(self.folder)
        work.claim(facts)
        return work

    def tasks(self) -> list[Task]:
        """All shards, in order."""
        step = self.settings.shard_images
        return [
            Task(number, start, min(start + step, len(corpus)))
            for number, corpus in enumerate(self.corpora)
            for start in range(0, len(corpus), step)
        ]


def versions() -> dict[str, str]:
    """Of what decides about pixels and fingerprints."""
    return {"eva02_det": eva02_det.__version__, "pillow": PIL.__version__, "numpy": numpy.__version__}


def search(plan: Search, *, processes: int = 1, shard: tuple[int, int] | None = None, retry: bool = False) -> None:
    """Do what is not done yet. shard: (i, n) does each n-th shard from the i-th on, for n runs that share the work folder.

    retry: also search again where images were unreadable, as after a failure of the storage.
    """
    work = plan.claim()
    if plan.settings.compares and any(corpus.has_images for corpus in plan.corpora):
        plan.evaluation.require_images()
    if plan.reads_all:
        _index(plan, work, processes, shard)
    first, step = shard or (0, 1)
    missing = [task for task in plan.tasks()[first::step] if not _is_done(work.shard(task.corpus, task.start), retry)]
    if not missing:
        return
    progress = Progress("searched", sum(task.stop - task.start for task in missing))
    for images in in_processes(missing, processes, _begin_search, (plan,), _search_shard):
        progress.add(images)


def _is_done(file: Path, retry: bool) -> bool:
    return file.is_file() and not (retry and json.loads(file.read_text(encoding="utf-8"))["unreadable"])


def merge(plan: Search) -> tuple[Record, list[str]]:
    """The record of a search, and "name: reason" of every unreadable image. UserError where shards are missing."""
    work, tasks = plan.claim(), plan.tasks()
    missing = [number for number, task in enumerate(tasks) if not work.shard(task.corpus, task.start).is_file()]
    if missing:
        shown = ", ".join(map(str, missing[:NAMED])) + (", ..." if len(missing) > NAMED else "")
        raise UserError(f"{len(missing)} of {len(tasks)} shards are not searched yet ({shown}); call again without --merge")
    counts: list[Counter[str]] = [Counter() for _ in plan.corpora]
    pairs: list[dict[str, Any]] = []
    unreadable = [f"evaluation {plan.evaluation.name}: {text}" for text in _unreadable_evaluation(plan, work)]
    for task in tasks:
        result = json.loads(work.shard(task.corpus, task.start).read_text(encoding="utf-8"))
        name, count = plan.corpora[task.corpus].name, counts[task.corpus]
        count.update(read=result["read"], unreadable=len(result["unreadable"]), dropped=result["dropped"])
        count.update({f"refuted_{stage}": number for stage, number in result["refuted"].items()})
        unreadable += [f"corpus {name}: {file}: {why}" for file, why in result["unreadable"]]
        pairs += result["pairs"]
    return Record(_report(plan, counts, pairs, len(unreadable) - sum(count["unreadable"] for count in counts))), unreadable


def save(record: Record, unreadable: Sequence[str], folder: str | Path) -> None:
    """Write the record's files and unreadable.txt."""
    write_text(Path(folder) / "unreadable.txt", "".join(f"{line}\n" for line in unreadable))
    record.save(folder)


def _report(plan: Search, counts: Sequence[Counter[str]], pairs: list[dict[str, Any]], unreadable: int) -> dict[str, Any]:
    order = {corpus.name: number for number, corpus in enumerate(plan.corpora)}
    pairs = sorted(pairs, key=lambda pair: (pair["image_id"], order[pair["corpus"]], pair["corpus_number"]))
    evaluation = plan.evaluation
    return {
        "format": FORMAT,
        "evaluation": {
            **{
                "name": evaluation.name,
                "spec": evaluation.spec,
                "images": len(evaluation.images),
                "instances": evaluation.instances,
            },
            **{"digest": evaluation.digest, "json_file": evaluation.json_file, "unreadable": unreadable},
        },
        "corpora": [_of_corpus(corpus, count) for corpus, count in zip(plan.corpora, counts)],
        "settings": {**plan.settings.facts(), "versions": versions()},
        "pairs": pairs,
        "affected": affected(evaluation, order, pairs),
    }


def _of_corpus(corpus: Corpus, count: Counter[str]) -> dict[str, Any]:
    """refuted: candidates whose pixels turned out to be others. dropped: candidates beyond the closest of an image."""
    return {
        **{"name": corpus.name, "spec": corpus.spec, "digest": corpus.source.digest, "has_images": corpus.has_images},
        "coco_ids": isinstance(corpus.source, Listing) and corpus.source.place.coco_ids,
        **{"images": len(corpus), "read": count["read"], "unreadable": count["unreadable"], "dropped": count["dropped"]},
        "refuted": {key.removeprefix("refuted_"): number for key, number in sorted(count.items()) if key.startswith("refuted_")},
    }


def _parts(plan: Search) -> list[int]:
    return list(range(0, len(plan.evaluation.images), PART_IMAGES))


def _index(plan: Search, work: Work, processes: int, shard: tuple[int, int] | None) -> None:
    """Describe the evaluation images. Runs that share the folder each begin elsewhere and skip what another did meanwhile."""
    starts = _parts(plan)
    turn = len(starts) * shard[0] // shard[1] if shard else 0
    missing = [start for start in [*starts[turn:], *starts[:turn]] if not work.part(start).is_file()]
    if missing:
        progress = Progress("indexed the evaluation set", sum(_part_size(plan, start) for start in missing))
        for images in in_processes(missing, processes, _begin_index, (plan,), _index_part):
            progress.add(images)


def _part_size(plan: Search, start: int) -> int:
    return min(PART_IMAGES, len(plan.evaluation.images) - start)


def _unreadable_evaluation(plan: Search, work: Work) -> Iterator[str]:
    if plan.reads_all:
        for start in _parts(plan):
            for number, why in Part.load(work.part(start)).unreadable:
                yield f"{shown(plan.evaluation.images[int(number)].entry.file)}: {why}"


# what a process of the search keeps between its shards
_process: dict[str, Any] = {}


def _embedder(plan: Search) -> "Embedder | None":
    if plan.settings.embedder is None:
        return None
    from eva02_det.contamination.embeddings import open_embedder

    return open_embedder(plan.settings.embedder, plan.settings.device)


def _begin_index(plan: Search) -> None:
    _process.update(plan=plan, work=Work(plan.folder), embedder=_embedder(plan))


def _index_part(start: int) -> int:
    plan, work = _process["plan"], _process["work"]
    size = _part_size(plan, start)
    if not work.part(start).is_file():  # another run may have been here
        part = make_part(plan.evaluation.images[start : start + size], start, plan.settings, _process["embedder"])
        part.save(work.part(start))
    return size


def _begin_search(plan: Search) -> None:
    work = Work(plan.folder)
    index = Part.joined([Part.load(work.part(start)) for start in _parts(plan)]) if plan.reads_all else None
    if index is not None and plan.settings.has(FINGERPRINT):
        log.debug("%d fingerprints of %d images", len(index.rows), len(index.bytes))
    _process.update(work=work, searcher=Searcher(plan.corpora, plan.evaluation.images, plan.settings, index, _embedder(plan)))


def _search_shard(task: Task) -> int:
    result = _process["searcher"].search(task)
    write_json(_process["work"].shard(task.corpus, task.start), result)
    return task.stop - task.start
