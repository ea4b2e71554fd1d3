"""From the coordinates of the network's input to those of the picture that the user gave."""

from __future__ import annotations

from detectron2.layers import paste_masks_in_image
from detectron2.structures import Instances


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Detections scaled to output_height x output_width, boxes clipped, those without area dropped, masks pasted.

    `pred_masks` [R, 1, S, S] probabilities become [R, H, W] bool. The given record is left as it is.
    """
    height, width = results.image_size
    scaled = Instances((output_height, output_width), **results.get_fields())
    name = next((field for field in ("pred_boxes", "proposal_boxes") if scaled.has(field)), None)
    if name is None:
        raise AssertionError("there are neither pred_boxes nor proposal_boxes to scale")
    boxes = scaled.get(name).clone()
    boxes.scale(output_width / width, output_height / height)
    boxes.clip(scaled.image_size)
    scaled.set(name, boxes)
    kept = scaled[boxes.nonempty()]
    if kept.has("pred_masks"):
        probs = kept.pred_masks[:, 0]
        kept.pred_masks = paste_masks_in_image(probs, kept.get(name), kept.image_size, threshold=mask_threshold)
    return kept
