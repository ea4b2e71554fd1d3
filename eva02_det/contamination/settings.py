"""What a search does: its stages in order of cost, and the thresholds that decide what is a candidate."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eva02_det.contamination.fingerprints import MAX_BITS
from eva02_det.contamination.joins import JOINS
from eva02_det.utils.errors import UserError

BYTES, PIXELS, FINGERPRINT, EMBEDDING, ALIGN = "bytes", "pixels", "fingerprint", "embedding", "align"
CONTENT = (BYTES, PIXELS, FINGERPRINT, EMBEDDING)  # for these every image of a corpus is read
STAGES = (*JOINS, *CONTENT, ALIGN)


@dataclass(frozen=True)
class Settings:
    """stages: some of STAGES, in that order. max_bits: of a fingerprint's 64 that may differ. min_similarity: of embeddings.

    shard_images: corpus images that are searched before a result is written, which a stop may lose. device: of the embedder.
    """

    stages: tuple[str, ...]
    max_bits: int = MAX_BITS
    embedder: str | None = None
    min_similarity: float = 0.75
    device: str = "cpu"
    shard_images: int = 2000

    def has(self, *stages: str) -> bool:
        """Whether one of the stages is on."""
        return any(stage in self.stages for stage in stages)

    @property
    def reads_all(self) -> bool:
        """Whether every image of a corpus is read."""
        return self.has(*CONTENT)

    @property
    def compares(self) -> bool:
        """Whether images are read at all, those that only names join included."""
        return self.has(*CONTENT, ALIGN)

    def facts(self) -> dict[str, Any]:
        """What the result depends on."""
        return {key: value for key, value in asdict(self).items() if key not in ("device", "shard_images")} | {
            "stages": list(self.stages)
        }


def make_settings(stages: Sequence[str] | None, *, embedder: str | None = None, **options: Any) -> Settings:
    """Settings with the stages in order of cost; by default all, that of embeddings where an embedder is given."""
    wanted = set(stages) if stages else set(STAGES) - {EMBEDDING}
    wanted |= {EMBEDDING} if embedder and not stages else set()
    if strange := sorted(wanted - set(STAGES)):
        raise UserError(f"--stages knows no {', '.join(strange)}; choose among {' '.join(STAGES)}")
    if EMBEDDING in wanted and not embedder:
        raise UserError("the stage embedding needs a network; give --embedder, such as timm/NAME, or leave the stage out")
    if embedder and EMBEDDING not in wanted:
        raise UserError("--embedder is given, but --stages leaves the stage embedding out; add it, or drop --embedder")
    made = Settings(tuple(stage for stage in STAGES if stage in wanted), embedder=embedder, **options)
    if made.max_bits < 0 or not 0 < made.min_similarity <= 1 or made.shard_images < 1:
        raise UserError("--max-bits must be at least 0, --min-similarity above 0 and at most 1, and --shard-images at least 1")
    if made.stages == (ALIGN,):
        raise UserError(f"the stage align confirms what others find; choose one of {' '.join(STAGES[:-1])} too")
    return made
