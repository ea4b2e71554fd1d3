"""The eight ways to lay a picture on a square grid: flipped or not, turned by quarters.

Axes: H, W rows and columns, K frequencies along a side.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pose:
    """What was done to a picture: flipped left to right or not, then turned counter-clockwise by quarters."""

    flip: bool = False
    quarter_turns: int = 0

    @property
    def number(self) -> int:
        """0..7, its place in POSES."""
        return 4 * self.flip + self.quarter_turns

    @property
    def turned(self) -> bool:
        """Whether rows have become columns."""
        return self.quarter_turns % 2 == 1

    def of_image(self, image: NDArray[Any]) -> NDArray[Any]:
        """[H, W, ...] -> the picture in this pose, [H, W, ...] or [W, H, ...]."""
        return np.rot90(image[:, ::-1] if self.flip else image, self.quarter_turns)

    def of_frequencies(self, cosines: NDArray[Any]) -> NDArray[Any]:
        """DCT-II coefficients [..., K, K] (vertical, horizontal) of a picture -> those of the picture in this pose."""
        sign = 1 - 2 * (np.arange(cosines.shape[-1]) % 2)
        posed = cosines * sign if self.flip else cosines  # mirrored: every odd horizontal frequency changes its sign
        for _ in range(self.quarter_turns):
            posed = np.swapaxes(posed, -1, -2) * sign[:, None]  # a quarter turn: transposed, then upside down
        return posed

    def matrix(self) -> NDArray[np.float64]:
        """[2, 2] that takes (x, y) about the picture's middle to where the pose puts it; y points down."""
        flip = np.diag([-1.0, 1.0]) if self.flip else np.eye(2)
        quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
        return np.linalg.matrix_power(quarter, self.quarter_turns) @ flip


POSES = tuple(Pose(flip, turns) for flip in (False, True) for turns in range(4))
