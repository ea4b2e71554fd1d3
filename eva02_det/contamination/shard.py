"""The search of one shard: consecutive images of a corpus, read one after the other, none kept."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eva02_det.contamination.candidates import CandidateSearch
from eva02_det.contamination.corpus import Corpus
from eva02_det.contamination.digests import DigestIndex, bytes_digest, pixels_digest
from eva02_det.contamination.evaluation_images import EvaluationImage
from eva02_det.contamination.evaluation_index import Part
from eva02_det.contamination.fingerprints import corpus_rows
from eva02_det.contamination.images import Pixels, Unreadable, brightness, decode, header
from eva02_det.contamination.joins import FILE_NAME, Joins
from eva02_det.contamination.settings import BYTES, EMBEDDING, FINGERPRINT, PIXELS, Settings
from eva02_det.contamination.verify import DIGITS, Candidate, Verdict, Verifier, unseen
from eva02_det.utils.sources import remote

if TYPE_CHECKING:  # brings torch and faiss along
    from eva02_det.contamination.embeddings import Embedder, EmbeddingIndex

BATCH = 256  # images whose fingerprints are looked up at once
BATCH_BYTES = 128 << 20  # of pixels that wait for the embedder
READ_AHEAD = 8  # images that are read while one is looked at
MOST = 32  # candidates of a corpus image that are compared, the closest; more resemble it only because it is plain

Found = dict[tuple[int, int], Candidate]  # (number in the corpus, number in the evaluation set)


@dataclass(frozen=True)
class Task:
    """Images start to stop of a corpus, by its place among the corpora."""

    corpus: int
    start: int
    stop: int


class Searcher:
    """Searches corpora for the images of an evaluation set. Built once in each process."""

    def __init__(
        self,
        corpora: tuple[Corpus, ...],
        images: tuple[EvaluationImage, ...],
        settings: Settings,
        index: Part | None,
        embedder: "Embedder | None",
    ) -> None:
        self.corpora, self.images, self.settings, self.embedder = corpora, images, settings, embedder
        self.readers = ThreadPoolExecutor(READ_AHEAD)
        self.joins = Joins([image.entry for image in images], settings.stages)
        self.verifier = Verifier(images, settings)
        self.bytes = DigestIndex(index.bytes) if index and settings.has(BYTES) else None
        self.pixels = DigestIndex(index.pixels) if index and settings.has(PIXELS) else None
        self.sizes = {(int(height), int(width)) for height, width in index.sizes} if index else set()
        self.prints = CandidateSearch(index.rows, index.image, settings.max_bits) if index and settings.has(FINGERPRINT) else None
        self.vectors = _vectors(index, settings) if index and embedder else None

    def search(self, task: Task) -> dict[str, Any]:
        """The result of a shard, plain JSON: what was read, what could not be, which pairs were found."""
        corpus = self.corpora[task.corpus]
        look = _Look(self, corpus)
        for start in range(task.start, task.stop, BATCH):
            look.batch(range(start, min(start + BATCH, task.stop)))
        return {**vars(task), **look.result()}


class _Look:
    """A shard while it is searched."""

    def __init__(self, searcher: Searcher, corpus: Corpus) -> None:
        self.by, self.corpus = searcher, corpus
        self.reads_all = corpus.has_images and searcher.settings.reads_all
        self.tried, self.dropped = 0, 0
        self.unreadable: dict[int, str] = {}
        self.refuted: dict[str, int] = {}
        self.pairs: list[dict[str, Any]] = []
        self._waiting: list[tuple[int, Pixels]] = []

    def result(self) -> dict[str, Any]:
        named = [[shown(self.corpus.entry(number).file), why] for number, why in sorted(self.unreadable.items())]
        return {
            "read": self.tried - len(named),
            "unreadable": named,
            "refuted": self.refuted,
            "dropped": self.dropped,
            "pairs": self.pairs,
        }

    def batch(self, numbers: range) -> None:
        """Find candidates among some images, then compare them."""
        found: Found = {}
        rows = []
        for number in numbers:
            for image, stages in self.by.joins.find(self.corpus.entry(number)).items():
                found.setdefault((number, image), Candidate()).found_by.update(stages)
        for number, read in self._ahead(numbers) if self.reads_all else ():
            if (pixels := self._content(number, read, found)) is not None and self.by.prints:
                rows.append((number, corpus_rows(pixels)))
        self._embed(found)
        if self.by.prints and rows:
            owners = np.repeat([number for number, _ in rows], [len(of_image) for _, of_image in rows])
            hits = self.by.prints.search(np.concatenate([of_image for _, of_image in rows]), owners)
            for number, image, bits in zip(hits.corpus.tolist(), hits.evaluation.tolist(), hits.bits.tolist()):
                candidate = found.setdefault((number, image), Candidate())
                candidate.found_by.add(FINGERPRINT)
                candidate.bits = bits
        self._compare(found)

    def _ahead(self, numbers: range) -> Iterator[tuple[int, Callable[[], bytes]]]:
        """Numbers with what gives the encoded image; the next ones are read meanwhile, which hides the latency of storage."""
        waiting: deque[tuple[int, Callable[[], bytes]]] = deque()
        for number in numbers:
            waiting.append((number, self.by.readers.submit(self._bytes, number).result))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft()
        yield from waiting

    def _content(self, number: int, read: Callable[[], bytes], found: Found) -> Any:
        """Read an image and look it up by its digests. -> pixels [H, W, 3] or [H, W] where later stages ask for them."""
        by = self.by
        try:
            self.tried += 1
            content = read()
            self._note(found, number, by.bytes, bytes_digest(content), BYTES)
            if not by.settings.has(PIXELS, FINGERPRINT, EMBEDDING):
                return None
            size, deep = header(content)
            exact = by.pixels is not None and size in by.sizes  # a picture of another size is another one
            if not exact and not deep and by.embedder is None:
                return brightness(content) if by.prints else None
            pixels = decode(content)
        except Unreadable as error:
            self.unreadable[number] = str(error)
            return None
        if exact:
            self._note(found, number, by.pixels, pixels_digest(pixels), PIXELS)
        if by.embedder:
            self._waiting.append((number, pixels))
            if sum(one.nbytes for _, one in self._waiting) > BATCH_BYTES:
                self._embed(found)
        return pixels

    def _note(self, found: Found, number: int, index: DigestIndex | None, digest: bytes, stage: str) -> None:
        for image in index.find(digest) if index else ():
            found.setdefault((number, image), Candidate()).found_by.add(stage)

    def _embed(self, found: Found) -> None:
        """Look up the images that wait for the embedder."""
        if not self._waiting or self.by.embedder is None or self.by.vectors is None:
            return
        numbers, pixels = zip(*self._waiting)
        self._waiting = []
        hits = self.by.vectors.search(self.by.embedder.embed(list(pixels)))
        for query, row, similarity in zip(hits.query.tolist(), hits.row.tolist(), hits.similarity.tolist()):
            candidate = found.setdefault((numbers[query], row // 2), Candidate())  # each image has two rows
            candidate.found_by.add(EMBEDDING)
            candidate.embedding = max(similarity, candidate.embedding or -1.0)

    def _bytes(self, number: int) -> bytes:
        try:
            return self.corpus.source[number]
        except OSError as error:
            raise Unreadable(remote.reason(error)) from error

    def _compare(self, found: Found) -> None:
        """Judge the candidates, those of one image after the other."""
        by_image: dict[int, list[int]] = {}
        for number, image in sorted(found):
            by_image.setdefault(number, []).append(image)
        for number, images in by_image.items():
            closest = sorted(images, key=lambda image: _rank(found[number, image]))
            self.dropped += len(closest[MOST:])
            for image, candidate, verdict in self._verdicts(
                number, {image: found[number, image] for image in sorted(closest[:MOST])}
            ):
                if verdict.refuted and candidate.found_by <= {FILE_NAME, FINGERPRINT}:
                    stage = candidate.stages[0]
                    self.refuted[stage] = self.refuted.get(stage, 0) + 1
                else:
                    self.pairs.append(self._pair(number, image, candidate, verdict))

    def _verdicts(self, number: int, candidates: dict[int, Candidate]) -> Iterator[tuple[int, Candidate, Verdict]]:
        content, why = self._again(number)
        for image, candidate in candidates.items():
            verdict = unseen(candidate, why) if content is None else self.by.verifier.judge(candidate, image, content)
            if verdict.damage:
                self.unreadable[number] = verdict.damage
            yield image, candidate, verdict

    def _again(self, number: int) -> tuple[bytes | None, str]:
        """The encoded image, read once more as none is kept; or None and the reason."""
        if not self.corpus.has_images:
            return None, "the images of the corpus are not at hand"
        if not self.by.settings.compares:
            return None, "no stage that reads images is on"
        if number not in self.unreadable:
            try:
                self.tried += not self.reads_all
                return self._bytes(number), ""
            except Unreadable as error:
                self.unreadable[number] = str(error)
        return None, f"the corpus image is unreadable ({self.unreadable[number]})"

    def _pair(self, number: int, image: int, candidate: Candidate, verdict: Verdict) -> dict[str, Any]:
        evaluation, entry, found = self.by.images[image], self.corpus.entry(number), verdict.alignment
        similarity = found.similarity if found else candidate.embedding
        return {
            "image_id": evaluation.image_id,
            "file_name": shown(evaluation.entry.file),
            "corpus": self.corpus.name,
            "corpus_image": shown(entry.file),
            "corpus_number": number,
            "corpus_id": entry.id,
            "found_by": candidate.stages,
            "bits": candidate.bits,
            "similarity": None if similarity is None else round(float(similarity), DIGITS),
            "coverage": None if found is None else round(float(found.coverage), DIGITS),
            "flip": bool(found and found.flip),
            "quarter_turns": int(found.quarter_turns) if found else 0,
            "window": None if found is None else [round(float(edge), DIGITS) for edge in found.window],
            "confirmed": verdict.confirmed,
            "reason": verdict.reason,
        }


def _vectors(index: Part, settings: Settings) -> "EmbeddingIndex":
    from eva02_det.contamination.embeddings import EmbeddingIndex

    return EmbeddingIndex(index.vectors, settings.min_similarity)


def shown(name: str) -> str:
    """A file's name on one line of valid text, whatever bytes it is made of."""
    return name.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")


def _rank(candidate: Candidate) -> tuple[bool, int, float]:
    """The surest first: found by anything but likeness, by few bits, by a close embedding."""
    sure = bool(candidate.found_by - {FINGERPRINT, EMBEDDING})
    return (not sure, 99 if candidate.bits is None else candidate.bits, -(candidate.embedding or 0.0))
