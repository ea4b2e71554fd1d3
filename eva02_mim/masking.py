"""Block-wise masks: rectangles of random area and shape until about 40 % of the patches are hidden.

Axes: N = grid * grid patches (row-major), K = `count` slots. True = hidden from the student.
"""

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eva02_det.utils.errors import UserError
from eva02_mim.hidden import HiddenTokens

ATTEMPTS = 10  # to place one block, after which the mask stays short


@dataclass(frozen=True)
class BlockMasks:
    """The published law of masks. 105 of 256 patches at most, 104.4 on average, the centre far more often than the corners.

    A mask is a whole number while it is made, one bit for each patch: counting and joining blocks is then a single operation.

    Args:
        grid: patches on a side.
        count: hidden patches, at most; K.
        min_block: patches of the smallest block.
        aspect: bounds of height / width, drawn log-uniformly.
        exact: fill up to exactly `count` with single patches at random, which the published law does not.
    """

    grid: int = 16
    count: int = 105
    min_block: int = 16
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    exact: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.count <= self.grid**2:
            raise UserError(f"masks of {self.count} patches do not fit a grid of {self.grid} x {self.grid}; lower count")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise UserError(f"aspect={self.aspect} of the masks must be two positive numbers, the smaller first")

    def draw(self, seed: int, epoch: int, index: int) -> Tensor:
        """The mask of image `index` in `epoch`: [N] bool. The same for the same three numbers, in any process."""
        return self.draw_with(_source(seed, epoch, index))

    def draw_with(self, source: random.Random) -> Tensor:
        """The next mask of a source of random numbers, which it consumes in the published order: [N] bool."""
        return torch.from_numpy(self._mask(source))

    def hidden(self, seed: int, epoch: int, index: int) -> HiddenTokens:
        """`draw` as arrays: index [K] int64 and weight [K], 0 for the slots that this mask leaves empty."""
        places = np.flatnonzero(self._mask(_source(seed, epoch, index)))
        slots = torch.zeros(self.count, dtype=torch.int64)
        slots[: len(places)] = torch.from_numpy(places)
        return HiddenTokens(slots, (torch.arange(self.count) < len(places)).float())

    def _mask(self, source: random.Random) -> NDArray[np.bool_]:
        """[N]."""
        patches, mask = self.grid**2, self._blocks(source)
        if self.exact:
            free = [place for place in range(patches) if not mask >> place & 1]
            for place in source.sample(free, self.count - mask.bit_count()):
                mask |= 1 << place
        raw = np.frombuffer(mask.to_bytes(-(-patches // 8), "little"), dtype=np.uint8)
        return np.unpackbits(raw, count=patches, bitorder="little").view(np.bool_)

    def _blocks(self, source: random.Random) -> int:
        mask, left = 0, self.count
        while left:
            block = self._block(source, mask, left)
            if block is None:
                break
            mask |= block
            left = self.count - mask.bit_count()
        return mask

    def _block(self, source: random.Random, mask: int, left: int) -> int | None:
        """One block that hides between 1 and `left` further patches, or None where none is found in ten attempts."""
        shapes = math.log(self.aspect[0]), math.log(self.aspect[1])
        for _ in range(ATTEMPTS):
            area = source.uniform(self.min_block, left)  # the bounds change places towards the end, which is still valid
            ratio = math.exp(source.uniform(*shapes))
            height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if height >= self.grid or width >= self.grid:
                continue
            top, column = source.randint(0, self.grid - height), source.randint(0, self.grid - width)
            row = (1 << width) - 1 << column
            block = sum(row << self.grid * y for y in range(top, top + height))
            if 1 <= (block & ~mask).bit_count() <= left:
                return block
        return None


def _source(seed: int, epoch: int, index: int) -> random.Random:
    # a text as the seed: Python hashes it the same in every process, and no two triples can meet as sums or products might
    return random.Random(f"mask {seed} {epoch} {index}")


def striped_mask(grid: int = 16) -> Tensor:
    """The fixed mask of validation: every second patch, which on a grid of even side is every second column. [N] bool."""
    return torch.arange(grid**2) % 2 == 0
