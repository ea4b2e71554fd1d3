"""Boxes as offsets from other boxes, and the loss on those offsets (Faster R-CNN, arXiv:1506.01497, section 3.1.2).

Axes: B images, N boxes, R reference boxes of an image, F foreground boxes of the batch.
"""

from __future__ import annotations

import math

import torch
from detectron2.structures import Boxes
from fvcore.nn import smooth_l1_loss
from torch import Tensor

Quadruple = tuple[float, float, float, float]

# exp(dw) never enlarges a box more than from 16 to 1000 pixels
DEFAULT_SCALE_CLAMP = math.log(1000 / 16)


class Box2BoxTransform:
    """(dx, dy, dw, dh): centre shift in units of the source box and log of the size ratio, each times its weight."""

    def __init__(self, weights: Quadruple, scale_clamp: float = DEFAULT_SCALE_CLAMP) -> None:
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Offsets that lead from each source to its target, [N, 4] twice -> [N, 4]."""
        source_size, source_centre = _size_and_centre(src_boxes)
        target_size, target_centre = _size_and_centre(target_boxes)
        if not (source_size[:, 0] > 0).all():
            raise AssertionError("offsets from a box without width are not defined")
        shift = (target_centre - source_centre) / source_size
        stretch = torch.log(target_size / source_size)
        return torch.stack([weight * part for weight, part in zip(self.weights, _columns(shift, stretch), strict=True)], dim=1)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Boxes that the offsets lead to, [N, k * 4] from [N, 4] -> [N, k * 4], in float32."""
        offsets = deltas.float().unflatten(1, (-1, 4))
        size, centre = (part[:, None] for part in _size_and_centre(boxes.to(offsets.dtype)))
        dx, dy, dw, dh = (offset / weight for offset, weight in zip(offsets.unbind(-1), self.weights, strict=True))
        middle = torch.stack((dx, dy), dim=-1) * size + centre
        half = torch.stack((dw, dh), dim=-1).clamp(max=self.scale_clamp).exp() * size * 0.5
        return torch.cat((middle - half, middle + half), dim=-1).flatten(1)


def _size_and_centre(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """[N, 4] corners -> [N, 2] (width, height) and [N, 2] (x, y)."""
    low, high = boxes[:, :2], boxes[:, 2:]
    size = high - low
    return size, low + 0.5 * size


def _columns(*pairs: Tensor) -> list[Tensor]:
    """The columns of [N, 2] tensors, left to right."""
    return [column for pair in pairs for column in pair.unbind(1)]


def _dense_box_regression_loss(
    anchors: list[Boxes | Tensor],
    box2box_transform: Box2BoxTransform,
    pred_anchor_deltas: list[Tensor],
    gt_boxes: list[Tensor],
    fg_mask: Tensor,
    box_reg_loss_type: str = "smooth_l1",
    smooth_l1_beta: float = 0.0,
) -> Tensor:
    """Summed smooth-L1 loss of the foreground offsets; `smooth_l1_beta` 0 makes it L1.

    `anchors` (a level each) together are the R boxes shared by all images, `pred_anchor_deltas` (a level each) the
    predictions [B, R_level, 4], `gt_boxes` B tensors [R, 4], `fg_mask` [B, R] bool.
    """
    if box_reg_loss_type != "smooth_l1":
        raise ValueError(f"box_reg_loss_type={box_reg_loss_type!r} is not offered, only 'smooth_l1'")
    references = torch.cat([level if isinstance(level, Tensor) else level.tensor for level in anchors])
    image, place = fg_mask.nonzero(as_tuple=True)
    wanted = box2box_transform.get_deltas(references[place], torch.stack(gt_boxes)[image, place])
    predicted = torch.cat(pred_anchor_deltas, dim=1)[image, place]
    return smooth_l1_loss(predicted, wanted, beta=smooth_l1_beta, reduction="sum")
