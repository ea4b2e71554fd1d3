"""Endless shuffled samplers for training and a sampler that cuts a data set into pieces for evaluation."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice

import torch
from detectron2.utils import comm
from torch.utils.data import Sampler


class _EndlessSampler(Sampler):
    """One stream of epochs that all ranks compute alike and of which each rank takes every world-size-th number."""

    def __init__(self, shuffle: bool, seed: int | None) -> None:
        self._shuffle = shuffle
        self._seed = comm.shared_random_seed() if seed is None else int(seed)
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        return islice(self._infinite_indices(), self._rank, None, self._world_size)

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            epoch = self._epoch(generator)
            order = torch.randperm(len(epoch), generator=generator) if self._shuffle else slice(None)
            yield from epoch[order].tolist()

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        """The numbers of one pass, unshuffled. -> [N] int."""
        raise NotImplementedError


class TrainingSampler(_EndlessSampler):
    """An endless row of permutations of range(size)."""

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        """seed: the same on all ranks; None draws one and shares it."""
        if not isinstance(size, int):
            raise TypeError(f"the size of a data set is an int, not {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"there is nothing to sample from a data set of size {size}")
        self._size = size
        super().__init__(shuffle, seed)

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        return torch.arange(self._size)


class RepeatFactorTrainingSampler(_EndlessSampler):
    """Like TrainingSampler, but an image with factor r occurs r times a pass, the fraction by chance (LVIS, appendix B.2)."""

    def __init__(self, repeat_factors: torch.Tensor, *, shuffle: bool = True, seed: int | None = None) -> None:
        """repeat_factors: [N] float, the wanted occurrences of each image."""
        self._whole = repeat_factors.floor()
        self._fraction = repeat_factors - self._whole
        super().__init__(shuffle, seed)

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: list[dict], repeat_thresh: float, sqrt: bool = True
    ) -> torch.Tensor:
        """Factor of an image = the largest max(1, sqrt(repeat_thresh / f)) of its categories, f being the share of images
        that show the category. -> [N] float."""
        shown = [{annotation["category_id"] for annotation in record["annotations"]} for record in dataset_dicts]
        power = 0.5 if sqrt else 1.0
        wanted = {
            category: (repeat_thresh * len(shown) / images) ** power
            for category, images in Counter(chain.from_iterable(shown)).items()
        }
        return torch.tensor([max([1.0, *(wanted[category] for category in categories)]) for categories in shown])

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        extra = torch.rand(len(self._fraction), generator=generator) < self._fraction
        times = (self._whole + extra).long()
        return torch.repeat_interleave(torch.arange(len(times)), times)


class InferenceSampler(Sampler):
    """range(size) cut into consecutive pieces, one a rank, as equal as can be: every item is seen exactly once."""

    def __init__(self, size: int) -> None:
        if size <= 0:
            raise AssertionError(f"there is nothing to evaluate in a data set of size {size}")
        self._size = size
        self._local_indices = self._get_local_indices(size, comm.get_world_size(), comm.get_rank())

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> Sequence[int]:
        least, extra = divmod(total_size, world_size)
        begin = rank * least + min(rank, extra)
        return range(begin, begin + least + (rank < extra))

    def __iter__(self) -> Iterator[int]:
        return iter(self._local_indices)

    def __len__(self) -> int:
        return len(self._local_indices)
