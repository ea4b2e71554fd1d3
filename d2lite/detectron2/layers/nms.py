"""Non-maximum suppression within groups."""

from torch import Tensor
from torchvision.ops import boxes as box_ops


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Rows that survive, by falling score; only boxes of equal `idxs` suppress each other. [N, 4], [N], [N] -> [M]."""
    if boxes.shape[-1] != 4:
        raise AssertionError(f"boxes need 4 numbers, got {boxes.shape[-1]}")
    # overlaps are not trustworthy in half precision
    return box_ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)
