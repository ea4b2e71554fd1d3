"""The pictures behind the pairs of a record, for whoever shows them."""

from pathlib import Path

from eva02_det.contamination.corpus import Corpus
from eva02_det.contamination.evaluation_images import EvaluationSet
from eva02_det.contamination.record import Record


class Pictures:
    """Finds evaluation images by id, and corpus images by the name that the record gives them."""

    def __init__(self, record: Record, evaluation: EvaluationSet, corpora: tuple[Corpus, ...]) -> None:
        self._corpora = {corpus.name: corpus for corpus in corpora}
        self._paths = {image.image_id: Path(image.path) for image in evaluation.images}
        self._numbers = {(pair["corpus"], pair["corpus_image"]): pair["corpus_number"] for pair in record.data["pairs"]}

    def evaluation_file(self, image_id: int) -> Path:
        """Where the image is, or would be."""
        return self._paths[image_id]

    def corpus_bytes(self, corpus: str, corpus_image: str) -> bytes | None:
        """The encoded image; None where the images are not at hand or this one cannot be read."""
        number, source = self._numbers.get((corpus, corpus_image)), self._corpora[corpus]
        if number is None or not source.has_images:
            return None
        try:
            return source.source[number]
        except OSError:
            return None
