"""Test-time augmentation: one picture seen at several sizes and mirrored, the views merged before boxes are selected.

Axes: V views of a picture, R candidate boxes of a view, K classes, M detections, S side of a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.modeling import GeneralizedRCNN, detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from eva02_det.modeling.cascade_heads import Eva02CascadeROIHeads
from eva02_det.utils.errors import UserError

Size = tuple[int, int]  # height, width in px


@dataclass(frozen=True)
class View:
    """How the network saw the picture: at which size, and whether mirrored left to right."""

    size: Size
    flipped: bool

    def to(self, other: "View", boxes: Tensor) -> Tensor:
        """Corners [M, 4] in this view's pixels -> in those of another view of the same picture."""
        if self == other:
            return boxes
        height, width = self.size
        x0, y0, x1, y1 = boxes.unbind(1)
        if self.flipped != other.flipped:
            x0, x1 = width - x1, width - x0
        across, down = other.size[1] / width, other.size[0] / height
        return torch.stack([x0 * across, y0 * down, x1 * across, y1 * down], 1)


@dataclass(frozen=True)
class Look:
    """What the backbone made of the views of one size, which went through it as one batch."""

    views: tuple[View, ...]
    features: dict[str, Tensor]


class TTA(nn.Module):
    """A detector that looks several times. Takes the records that the detector takes, returns what the detector returns.

    Candidate boxes of all views, each with its class scores, are brought to the pixels of the first view and handed to the
    heads' own box selector together; masks are predicted in every view for the boxes that were selected and averaged, and
    only then calibrated. With one scale and no flip this is the plain detector.

    The features of all views of a picture are kept until its masks are done: for ViT-L at 1536 px 0.2 GB a view.
    Pictures are taken one by one, whatever the batch.

    Args:
        model: the detector, with heads of type `Eva02CascadeROIHeads`.
        scales: long sides in px. Records may hold pictures of any size and best hold them as they were decoded: a picture
            that has the wanted size already is left alone, any other is resized with the test loader's filter.
            A scale below the model's padding square is padded to the square, a larger one enlarges the square.
        flip: whether each scale is also seen mirrored.
    """

    def __init__(self, model: GeneralizedRCNN, *, scales: Sequence[int], flip: bool = True) -> None:
        super().__init__()
        if not isinstance(model.roi_heads, Eva02CascadeROIHeads):
            raise UserError(f"TTA needs Eva02CascadeROIHeads, the model has {type(model.roi_heads).__name__}; run it without TTA")
        sides = [int(side) for side in scales]
        if not sides or min(sides) < 1 or len(set(sides)) < len(sides):
            raise UserError(f"TTA(scales={list(scales)}): give one or more different long sides in pixels, e.g. 1280 1536 1792")
        self.model = model
        self.scales = tuple(sides)
        self.flip = flip
        self.train(model.training)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.model.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Records with `image` [3, H, W] uint8, and `height`, `width` of the output -> [{"instances": ...}] as the model."""
        return self.inference(batched_inputs)

    def inference(
        self, batched_inputs: list[dict[str, Any]], do_postprocess: bool = True
    ) -> list[dict[str, Instances]] | list[Instances]:
        """As `GeneralizedRCNN.inference`; without `do_postprocess` in the pixels of the first view, masks not pasted."""
        if self.training:
            raise UserError("TTA is for a model in evaluation mode; call model.eval() first")
        found = [self._detect(record["image"]) for record in batched_inputs]
        if not do_postprocess:
            return found
        outputs = []
        for record, instances in zip(batched_inputs, found):
            height, width = record["image"].shape[-2:]
            size = (record.get("height", height), record.get("width", width))
            outputs.append({"instances": detector_postprocess(instances, *size)})
        return outputs

    def _detect(self, image: Tensor) -> Instances:
        """[3, H, W] -> detections in the pixels of the first view."""
        heads = self.model.roi_heads
        looks, boxes, scores = [], [], []
        for scale in self.scales:
            look, refined = self._look(fit(image, scale))
            looks.append(look)
            boxes += [view.to(looks[0].views[0], own) for view, (own, _, _) in zip(look.views, refined)]
            scores += [own for _, own, _ in refined]
        reference = looks[0].views[0]
        found = heads.select(torch.cat(boxes), torch.cat(scores), reference.size)
        if not heads.mask_on:
            return found

        def add_masks(part: Instances) -> Instances:
            part.pred_masks = self._average_masks(part, reference, looks)
            return part

        if heads.mask_budget is not None:
            return heads.mask_budget(found, add_masks, heads.rescore_masks)
        return heads.rescore(add_masks(found))

    def _look(self, image: Tensor) -> tuple[Look, list[tuple[Tensor, Tensor, Size]]]:
        """The picture and, if wanted, its mirror image through backbone, proposals and box heads.

        -> (look, per view: boxes [R, 4] in its own pixels, class scores [R, K+1], size)
        """
        images = [image, image.flip(-1)] if self.flip else [image]
        batch = self.model.preprocess_image([{"image": one} for one in images])
        features = self.model.backbone(batch.tensor)
        proposals, _ = self.model.proposal_generator(batch, features, None)
        views = tuple(View(size, flipped=index == 1) for index, size in enumerate(batch.image_sizes))
        return Look(views, features), self.model.roi_heads.refine(features, proposals)

    def _average_masks(self, found: Instances, reference: View, looks: list[Look]) -> Tensor:
        """Mean over the views of the mask probabilities inside the boxes of `found`. -> [M, 1, S, S]."""
        total, count = None, 0
        for look in looks:
            given = [
                Instances(
                    view.size,
                    pred_boxes=Boxes(reference.to(view, found.pred_boxes.tensor)),
                    pred_classes=found.pred_classes,
                )
                for view in look.views
            ]
            for view, seen in zip(look.views, self.model.roi_heads.predict_masks(look.features, given)):
                masks = seen.pred_masks.flip(-1) if view.flipped else seen.pred_masks
                total = masks if total is None else total + masks
                count += 1
        return total / count


def fit(image: Tensor, long_side: int) -> Tensor:
    """[3, H, W] -> the picture with its longer side that long, resized as the test loader does; left alone if it is already."""
    height, width = image.shape[-2:]
    size = T.ResizeShortestEdge.get_output_shape(height, width, long_side, long_side)
    new_height, new_width = (max(side, 1) for side in size)
    if (new_height, new_width) == (height, width):
        return image
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    resized = T.ResizeTransform(height, width, new_height, new_width).apply_image(pixels)
    return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
