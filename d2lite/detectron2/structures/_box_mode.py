"""The ways four numbers can describe a box, and the conversion between corner and corner-plus-size."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

BoxLike = list[float] | tuple[float, ...] | np.ndarray | Tensor


class BoxMode(IntEnum):
    """Meaning of a box's numbers; the values are the ones stored in dataset records."""

    XYXY_ABS = 0  # both corners, pixels
    XYWH_ABS = 1  # upper left corner and size, pixels (COCO files)
    XYXY_REL = 2  # both corners, fractions of the image
    XYWH_REL = 3  # corner and size, fractions of the image
    XYWHA_ABS = 4  # centre, size and angle in degrees, pixels

    @staticmethod
    def convert(box: BoxLike, from_mode: BoxMode, to_mode: BoxMode) -> BoxLike:
        """One box (list, tuple) or [..., 4] boxes (array, tensor) in another mode; the type of the input is kept."""
        if from_mode == to_mode:
            return box
        sign = _CORNER_SIGN.get((BoxMode(from_mode), BoxMode(to_mode)))
        if sign is None:
            raise NotImplementedError(f"no conversion of boxes from {from_mode!r} to {to_mode!r}")
        if isinstance(box, Tensor):
            return _shift_second_pair(box, sign)
        if isinstance(box, np.ndarray):
            return _shift_second_pair(torch.from_numpy(box), sign).numpy()
        if len(box) != 4:
            raise AssertionError(f"a box has 4 numbers, this one {len(box)}")
        return type(box)(_shift_second_pair(torch.tensor(box), sign).tolist())


# width = x1 - x0 and x1 = x0 + width: the second pair changes by the first, with this sign
_CORNER_SIGN = {
    (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS): 1,
    (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS): -1,
}


def _shift_second_pair(boxes: Tensor, sign: int) -> Tensor:
    """[..., 4] -> [..., 4] with `sign` times the first pair added to the second."""
    first, second = boxes[..., :2], boxes[..., 2:]
    return torch.cat((first, second + sign * first), dim=-1)
