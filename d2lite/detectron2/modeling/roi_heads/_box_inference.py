"""From scored boxes of regions to detections.

Axes: R regions, K classes, D detections.
"""

from __future__ import annotations

from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor


def fast_rcnn_inference(
    boxes: list[Tensor],
    scores: list[Tensor],
    image_shapes: list[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[Tensor]]:
    """Detections of each image, and the rows they came from; see `fast_rcnn_inference_single_image`."""
    limits = (score_thresh, nms_thresh, topk_per_image)
    images = zip(boxes, scores, image_shapes, strict=True)
    pairs = [fast_rcnn_inference_single_image(*image, *limits) for image in images]
    return [detections for detections, _ in pairs], [rows for _, rows in pairs]


def fast_rcnn_inference_single_image(
    boxes: Tensor,
    scores: Tensor,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[Instances, Tensor]:
    """Score threshold (strictly above), clipping, NMS within each class, and the best `topk_per_image` (all if negative).

    boxes [R, 4] or [R, K * 4], scores [R, K + 1] with the background last. Returns `pred_boxes`, `scores` and
    `pred_classes` [D] by falling score, and the rows [D], counted among those that hold only finite numbers.
    """
    finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
    if not finite.all():
        boxes, scores = boxes[finite], scores[finite]
    clipped = Boxes(boxes.reshape(-1, 4))
    clipped.clip(image_shape)
    by_class = clipped.tensor.view(len(boxes), boxes.shape[1] // 4, 4)  # one box for all classes, or one each
    rows, classes = (scores[:, :-1] > score_thresh).nonzero(as_tuple=True)
    candidates = by_class[rows, classes if by_class.shape[1] > 1 else 0]
    confidence = scores[rows, classes]
    kept = batched_nms(candidates, confidence, classes, nms_thresh)
    if topk_per_image >= 0:
        kept = kept[:topk_per_image]
    found = Instances(image_shape, pred_boxes=Boxes(candidates[kept]), scores=confidence[kept], pred_classes=classes[kept])
    return found, rows[kept]
