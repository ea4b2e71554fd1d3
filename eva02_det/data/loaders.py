"""Loaders from checked records: uniform or repeat-factor sampling for training, every image once for evaluation."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from torch import Tensor

log = logging.getLogger(__name__)


def build_train_loader(
    dataset: list[dict[str, Any]],
    *,
    mapper: Callable[[dict[str, Any]], Any],
    total_batch_size: int,
    repeat_threshold: float | None = None,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 4,
    seed: int | None = None,
    **options: Any,
) -> Iterable[list[Any]]:
    """detectron2's training loader, whose sampler gets the records that the loader gets: they are read once.

    repeat_threshold: an image is repeated sqrt(threshold / f) times for the rarest of its classes, f being the share of
    images that show the class (LVIS, appendix B.2); None: every image once a pass. options: for the DataLoader.
    """
    if repeat_threshold is None:
        sampler: Any = TrainingSampler(len(dataset), seed=seed)
    else:
        sampler = RepeatFactorTrainingSampler(_repeat_factors(dataset, repeat_threshold), seed=seed)
    return build_detection_train_loader(
        dataset,
        mapper=mapper,
        sampler=sampler,
        total_batch_size=total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        seed=seed,
        **options,
    )


def _repeat_factors(records: list[dict[str, Any]], threshold: float) -> Tensor:
    """How often each image is wanted in a pass. [N] >= 1."""
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, threshold)
    more = int((factors > 1).sum())
    log.info(
        "repeat factors at %g: %d of %d images come more than once, %.0f a pass", threshold, more, len(factors), factors.sum()
    )
    return factors
