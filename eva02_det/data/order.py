"""Which image is drawn at which place of a training: detectron2's endless order, entered anywhere in no time."""

import os
from collections.abc import Iterator
from itertools import chain, islice

import torch
from torch import Tensor
from torch.utils.data import Sampler, get_worker_info

# Axes: N records.
Draw = tuple[int, int]  # (number of the record, place in the order of all processes)


class EndlessOrder:
    """The order of detectron2's TrainingSampler, or with factors of its RepeatFactorTrainingSampler, of the same seed.

    Those can only be passed through from the start, which takes minutes where factors are many; here `seek` runs through the
    shuffles alone.

    Args:
        size: number of records.
        factors: [N] how often each record is wanted in a pass, the fraction by chance; None: once.
    """

    def __init__(self, size: int, seed: int, factors: Tensor | None = None) -> None:
        self.size, self.seed, self.factors = size, seed, factors
        self._whole = None if factors is None else factors.floor()
        self._fraction = None if factors is None else factors - factors.floor()
        self.seek(0)

    def seek(self, place: int) -> None:
        """Begin at a place, counted over all processes; after a change of the seed too."""
        generator, before = torch.Generator().manual_seed(self.seed), 0
        while True:
            state = generator.get_state()
            length = len(self._pass(generator))
            if before + length > place:
                break
            before += length
        self._place, self._state, self._before = place, state, before

    def dealt(self, rank: int, world: int) -> Iterator[Draw]:
        """What one of several processes draws: every `world`-th, from the place on, without end."""
        generator = torch.Generator()
        generator.set_state(self._state)
        next_place, begin = self._place + rank, self._before
        while True:
            numbers = self._pass(generator)
            mine = numbers[next_place - begin :: world].tolist()
            yield from zip(mine, range(next_place, next_place + world * len(mine), world))
            next_place, begin = next_place + world * len(mine), begin + len(numbers)

    def _pass(self, generator: torch.Generator) -> Tensor:
        """The records of one pass in their order. -> int64 [N], or another length where factors are given."""
        if self._whole is None or self._fraction is None:
            return torch.randperm(self.size, generator=generator)
        extra = torch.rand(self.size, generator=generator) < self._fraction
        times = (self._whole + extra).long()
        numbers = torch.repeat_interleave(torch.arange(self.size), times)
        return numbers[torch.randperm(len(numbers), generator=generator)]


class Draws(Sampler[Draw]):
    """A sampler that says with each record at which place of the order it is drawn.

    Args:
        rank, world: of this process and how many there are.
        batch_size: of this process.
        wide: [N] bool; with it, wide images share batches with wide ones and others with others, filled in the order of the
            draws as detectron2's aspect-ratio grouping fills them.
        workers: of the loader that uses this; `pids` holds the process of each, 0 where it has not begun.
    """

    def __init__(
        self, order: EndlessOrder, *, rank: int, world: int, batch_size: int, wide: Tensor | None = None, workers: int = 0
    ) -> None:
        self.order, self.rank, self.world, self.batch_size = order, rank, world, batch_size
        self._wide = None if wide is None else wide.to(torch.uint8).numpy().tobytes()  # a byte an image, quick to look up
        self.pids = torch.zeros(workers, dtype=torch.int64).share_memory_()
        self._waiting: tuple[list[Draw], list[Draw]] = ([], [])

    def seek(self, images: int) -> None:
        """Begin after so many images of all processes together; call it before the workers start."""
        if self._wide is None:
            self.order.seek(images)
            return
        self.order.seek(0)
        waiting: tuple[list[Draw], list[Draw]] = ([], [])
        batches = self._grouped(self.order.dealt(self.rank, self.world), waiting)
        last = None
        for batch in islice(batches, images // (self.batch_size * self.world)):
            last = batch[-1][1]
        self._waiting = waiting
        if last is not None:
            self.order.seek(last + self.world - self.rank)  # this process goes on with the next one that is its own

    def __iter__(self) -> Iterator[Draw]:
        """Draws of this process, each `batch_size` in a row a batch, from the place on."""
        if (worker := get_worker_info()) is not None:
            self.pids[worker.id] = os.getpid()
        draws = self.order.dealt(self.rank, self.world)
        if self._wide is None:
            return draws
        waiting = (list(self._waiting[0]), list(self._waiting[1]))
        return chain.from_iterable(self._grouped(draws, waiting))

    def _grouped(self, draws: Iterator[Draw], waiting: tuple[list[Draw], list[Draw]]) -> Iterator[list[Draw]]:
        """Batches of one shape; `waiting` holds what fills none yet, (not wide, wide)."""
        wide = self._wide or b""
        for draw in draws:
            group = waiting[wide[draw[0]]]
            group.append(draw)
            if len(group) == self.batch_size:
                batch = group[:]
                group.clear()
                yield batch
