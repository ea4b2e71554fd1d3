"""A small two-stage detector and inputs for it, for the tests of this folder."""

from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, GeneralizedRCNN, SimpleFeaturePyramid
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor, nn

CHANNELS, CLASSES = 8, 5
LEVELS = ["p2", "p3", "p4", "p5"]
STAGE_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))


class Patches(Backbone):
    """One patch embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 16, kernel_size=16, stride=16)
        self._out_features = ["last_feat"]
        self._out_feature_channels = {"last_feat": 16}
        self._out_feature_strides = {"last_feat": 16}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"last_feat": self.proj(x)}


def pyramid(square_pad: int = 64, scales: tuple[float, ...] = (4.0, 2.0, 1.0, 0.5)) -> SimpleFeaturePyramid:
    return SimpleFeaturePyramid(Patches(), "last_feat", CHANNELS, scales, LastLevelMaxPool(), "LN", square_pad)


def rpn(**options: Any) -> RPN:
    anchors = DefaultAnchorGenerator(
        sizes=[[8], [16], [24], [32], [48]], aspect_ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64], offset=0.0
    )
    settings: dict[str, Any] = {
        "in_features": [*LEVELS, "p6"],
        "head": StandardRPNHead(in_channels=CHANNELS, num_anchors=3, conv_dims=[-1, -1]),
        "anchor_generator": anchors,
        "anchor_matcher": Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        "box2box_transform": Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        "batch_size_per_image": 32,
        "positive_fraction": 0.5,
        "pre_nms_topk": (50, 40),
        "post_nms_topk": (30, 20),
    }
    return RPN(**{**settings, **options})


def pooler(size: int) -> ROIPooler:
    return ROIPooler(size, [1 / 4, 1 / 8, 1 / 16, 1 / 32], 0, "ROIAlignV2")


def equal_weights(count: int) -> Tensor:
    return torch.ones(count)


def predictor(weights: tuple[float, ...] = STAGE_WEIGHTS[0], **options: Any) -> FastRCNNOutputLayers:
    settings: dict[str, Any] = {"num_classes": CLASSES, "cls_agnostic_bbox_reg": True, "test_score_thresh": 0.01}
    if options.get("use_fed_loss"):
        settings["get_fed_loss_cls_weights"] = partial(equal_weights, options.get("num_classes", CLASSES))
    return FastRCNNOutputLayers(ShapeSpec(channels=12), box2box_transform=Box2BoxTransform(weights), **{**settings, **options})


def box_head() -> FastRCNNConvFCHead:
    shape = ShapeSpec(channels=CHANNELS, height=7, width=7)
    return FastRCNNConvFCHead(shape, conv_dims=[CHANNELS], fc_dims=[12], conv_norm="LN")


def mask_options() -> dict[str, Any]:
    shape = ShapeSpec(channels=CHANNELS, height=14, width=14)
    head = MaskRCNNConvUpsampleHead(shape, num_classes=CLASSES, conv_dims=[CHANNELS] * 3, conv_norm="LN")
    return {"mask_in_features": LEVELS, "mask_pooler": pooler(14), "mask_head": head}


def sampling() -> dict[str, Any]:
    return {
        "num_classes": CLASSES,
        "batch_size_per_image": 16,
        "positive_fraction": 0.25,
        "box_in_features": LEVELS,
        "box_pooler": pooler(7),
    }


def cascade(masks: bool = True, **of_predictors: Any) -> CascadeROIHeads:
    return CascadeROIHeads(
        box_heads=[box_head() for _ in STAGE_WEIGHTS],
        box_predictors=[predictor(weights, **of_predictors) for weights in STAGE_WEIGHTS],
        proposal_matchers=[Matcher([limit], [0, 1]) for limit in (0.5, 0.6, 0.7)],
        **sampling(),
        **(mask_options() if masks else {}),
    )


def standard(**options: Any) -> StandardROIHeads:
    return StandardROIHeads(
        box_head=box_head(),
        box_predictor=predictor(cls_agnostic_bbox_reg=False),
        proposal_matcher=Matcher([0.5], [0, 1]),
        **sampling(),
        **mask_options(),
        **options,
    )


def detector(heads: StandardROIHeads | None = None) -> GeneralizedRCNN:
    torch.manual_seed(0)
    return GeneralizedRCNN(
        backbone=pyramid(),
        proposal_generator=rpn(),
        roi_heads=heads or cascade(),
        pixel_mean=(120.0, 110.0, 100.0),
        pixel_std=(60.0, 50.0, 40.0),
        input_format="RGB",
    )


def objects(count: int, size: tuple[int, int] = (48, 64), bitmaps: bool = False) -> Instances:
    """Rectangles with masks that fill them."""
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * 24
    boxes = torch.cat((corner, corner + 8 + torch.rand(count, 2, generator=generator) * 14), dim=1)
    masks = PolygonMasks([[np.array([x0, y0, x1, y0, x1, y1, x0, y1])] for x0, y0, x1, y1 in boxes.tolist()])
    found = Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.arange(count) % CLASSES)
    found.gt_masks = BitMasks.from_polygon_masks(masks, *size) if bitmaps else masks
    return found


def batch(counts: tuple[int, ...] = (4, 3), bitmaps: bool = False) -> list[dict[str, Any]]:
    """Inputs of a detector, each with that many objects."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(48, 64), (64, 40)]
    images = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]
    return [
        {"image": image, "instances": objects(count, size, bitmaps)} for image, size, count in zip(images, sizes, counts)
    ]


def proposals_around(truth: Instances, count: int = 20) -> Instances:
    """Random boxes and slightly moved objects."""
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(count, 2, generator=generator) * 25
    boxes = [torch.cat((corner, corner + 5 + torch.rand(count, 2, generator=generator) * 12), dim=1), truth.gt_boxes.tensor + 0.5]
    tensor = torch.cat(boxes)
    return Instances(truth.image_size, proposal_boxes=Boxes(tensor), objectness_logits=torch.zeros(len(tensor)))
