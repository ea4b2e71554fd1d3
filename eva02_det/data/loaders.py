"""Loaders from checked records: uniform or repeat-factor sampling for training, every image once for evaluation."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.data import build_detection_train_loader
from detectron2.data.common import DatasetFromList
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm
from torch import Tensor

from eva02_det.data.drawn import REPLACES, DrawnImages
from eva02_det.data.order import Draws, EndlessOrder
from eva02_det.utils.broken import BrokenImages
from eva02_det.utils.errors import UserError

SAMPLED = 1000  # file names that stand for a data set
log = logging.getLogger(__name__)

Record = dict[str, Any]
Batch = list[Any]


class TrainLoader:
    """detectron2's training loader that keeps its place: an endless iterator over batches of this process.

    Batches depend on (seed, number of images that all processes have drawn) alone, whatever the number of workers and however
    often the training was stopped. `images` counts those of the batches handed out, whatever the workers have prepared beyond.
    """

    def __init__(
        self, loader: Iterable[Batch], images: DrawnImages, draws: Draws, *, total_batch_size: int, digest: str, max_broken: float
    ) -> None:
        self._loader, self._drawn, self.draws = loader, images, draws
        self.total_batch_size, self.digest = total_batch_size, digest
        self.broken = BrokenImages(max_broken)
        self.images = 0

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the current place on. UserError once more than `max_broken` of the images were unreadable."""
        self.draws.seek(self.images)
        for batch in self._loader:
            reasons = [reason for item in batch if isinstance(item, dict) for reason in item.pop(REPLACES, ())]
            self.broken.add(len(batch), reasons)
            self.images += self.total_batch_size
            yield batch

    @property
    def seed(self) -> int:
        """Of the order and of what is drawn for each image."""
        return self._drawn.seed

    def state_dict(self) -> dict[str, Any]:
        """The place after the last batch handed out, what it depends on, and this process's account of unreadable images."""
        place = {"images": self.images, "seed": self.seed, "records": len(self._drawn), "digest": self.digest}
        return place | {"broken": self.broken.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at a saved place, with the seed of then; UserError where the data set is another one."""
        if (state["records"], state["digest"]) != (len(self._drawn), self.digest):
            raise UserError(
                f"the training data are not those of the checkpoint ({state['records']} images then, {len(self._drawn)} now, or "
                "other names or order), so its place in them means nothing; resume with the same data, or begin a new run with "
                "train.init_checkpoint set to the checkpoint"
            )
        self.images = int(state["images"])
        self._drawn.seed = self.draws.order.seed = int(state["seed"])
        self.broken.load_state_dict(state["broken"])

    def worker_of(self, pid: int) -> int | None:
        """The number of the worker that is, or was, a process."""
        pids = self.draws.pids.tolist()
        return pids.index(pid) if pid in pids else None


def build_train_loader(
    dataset: list[Record],
    *,
    mapper: Callable[[Record], Any],
    total_batch_size: int,
    repeat_threshold: float | None = None,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 4,
    seed: int | None = None,
    max_broken: float = 0.01,
    **options: Any,
) -> TrainLoader:
    """The training loader over records, which are read once.

    repeat_threshold: an image is repeated sqrt(threshold / f) times for the rarest of its classes, f being the share of
    images that show the class (LVIS, appendix B.2); None: every image once a pass. seed: None draws one, the same in all
    processes. max_broken: share of unreadable images, each replaced by the next, above which the training stops. options: for
    the DataLoader.
    """
    seed = comm.shared_random_seed() if seed is None else int(seed)
    factors = None if repeat_threshold is None else _repeat_factors(dataset, repeat_threshold)
    draws = Draws(
        EndlessOrder(len(dataset), seed, factors),
        rank=comm.get_rank(),
        world=comm.get_world_size(),
        batch_size=max(1, total_batch_size // comm.get_world_size()),
        wide=torch.tensor([record["width"] > record["height"] for record in dataset]) if aspect_ratio_grouping else None,
        workers=num_workers,
    )
    images = DrawnImages(DatasetFromList(dataset, copy=False), mapper, seed)
    loader = build_detection_train_loader(
        images,
        mapper=None,  # the images are mapped as they are drawn
        sampler=draws,
        total_batch_size=total_batch_size,
        aspect_ratio_grouping=False,  # the draws are grouped
        num_workers=num_workers,
        seed=seed,
        **options,
    )
    return TrainLoader(loader, images, draws, total_batch_size=total_batch_size, digest=_digest(dataset), max_broken=max_broken)


def _repeat_factors(records: list[Record], threshold: float) -> Tensor:
    """How often each image is wanted in a pass. [N] >= 1."""
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, threshold)
    more = int((factors > 1).sum())
    log.info(
        "repeat factors at %g: %d of %d images come more than once, %.0f a pass", threshold, more, len(factors), factors.sum()
    )
    return factors


def _digest(records: Sequence[Record]) -> str:
    """What tells one list of images from another: some of their names, without folders, which may be elsewhere next time."""
    step = max(1, len(records) // SAMPLED)
    names = [str(record.get("file_name", record.get("image_id", ""))).rpartition("/")[2] for record in records[::step]]
    return hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest()
