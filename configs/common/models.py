"""EVA-02 detectors as LazyCall trees: Cascade Mask R-CNN on a simple feature pyramid over TrV, with the released values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers, MaskRCNNConvUpsampleHead
from omegaconf import DictConfig

from eva02_det.data.federated import FederatedClassWeights
from eva02_det.modeling.cascade_heads import Eva02CascadeROIHeads
from eva02_det.modeling.pyramid import Eva02RCNN, MixedPrecisionPyramid
from eva02_det.modeling.sizes import TRV_SIZES, spaced_global_blocks
from eva02_det.modeling.vit import TrV
from eva02_det.utils.errors import UserError

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
POOLED = ("p2", "p3", "p4", "p5")
IMAGENET_MEAN = (123.675, 116.28, 103.53)  # RGB, 0 .. 255
IMAGENET_STD = (58.395, 57.12, 57.375)
# IoU that makes a proposal foreground, and box coding weights, of each cascade stage
CASCADE = ((0.5, (10.0, 10.0, 5.0, 5.0)), (0.6, (20.0, 20.0, 10.0, 10.0)), (0.7, (30.0, 30.0, 15.0, 15.0)))


@dataclass(frozen=True)
class HeadSizes:
    """Layers of the heads. Their convolutions are as wide as the pyramid."""

    box_convs: int = 4
    box_width: int = 1024  # of the fully connected layer
    mask_convs: int = 4


@dataclass(frozen=True)
class Proposals:
    """What the proposal network looks for; limits are (training, test), those before NMS per pyramid level."""

    anchor_sizes_px: Sequence[float] = (32, 64, 128, 256, 512)
    pre_nms_topk: tuple[int, int] = (2000, 1000)
    post_nms_topk: tuple[int, int] = (1000, 1000)


def trv(
    size: str = "B", *, window_size: int = 16, num_global: int = 4, drop_path_rate: float = 0.1, **options: Any
) -> DictConfig:
    """TrV of size Ti, S, B or L, `num_global` of its blocks global. Released drop path: B 0.1, L 0.4 (0.3 from Objects365)."""
    if size not in TRV_SIZES:
        raise UserError(f"trv(size={size!r}) in the config: it must be one of {', '.join(TRV_SIZES)}")
    shape = TRV_SIZES[size]
    return L(TrV)(
        embed_dim=shape.embed_dim,
        depth=shape.depth,
        num_heads=shape.num_heads,
        sub_ln=shape.sub_ln,
        window_size=window_size,
        global_block_indexes=list(spaced_global_blocks(shape.depth, num_global)),
        drop_path_rate=drop_path_rate,
        **options,
    )


def cascade_mask_rcnn(
    net: DictConfig,
    *,
    num_classes: int = 80,
    image_size: int = 1024,
    channels: int = 256,
    heads: HeadSizes = HeadSizes(),
    proposals: Proposals = Proposals(),
    masks: bool = True,
    class_loss: dict[str, Any] | None = None,
    limits: tuple[float, int] = (0.05, 100),
    select_boxes: Any = None,
    rescore_masks: Any = None,
    mask_budget: Any = None,
) -> DictConfig:
    """The whole detector.

    Args:
        net: backbone node, e.g. `trv("L", num_global=8, window_size=32)`.
        image_size: side of the square that images are padded to; 0 pads a batch to a multiple of 32 only.
        channels: width of pyramid, proposal head and the convolutions of the heads.
        masks: False leaves the mask branch out (Objects365).
        class_loss: `softmax_loss()` (default), `sigmoid_loss()` or `federated_loss(...)`.
        limits: score threshold and detections per image of the box predictors, which select_boxes=None uses.
        select_boxes: e.g. `L(SoftNms)()`; None is hard NMS at 0.5 within `limits`.
        rescore_masks: e.g. `L(Maskness)()`; None leaves scores alone.
        mask_budget: e.g. `L(MaskBudget)(per_class=100)`; None gives every detection a mask.
    """
    # the layers refer to the heads' num_classes, so that overriding model.roi_heads.num_classes changes all of them
    branch = mask_branch(channels, "${..num_classes}", heads.mask_convs) if masks else {}
    predictors = [box_predictor(heads.box_width, "${...num_classes}", weights, class_loss, limits) for _, weights in CASCADE]
    return L(Eva02RCNN)(
        backbone=pyramid(net, channels, image_size),
        proposal_generator=proposal_network(channels, proposals),
        roi_heads=L(Eva02CascadeROIHeads)(
            num_classes=num_classes,
            batch_size_per_image=512,
            positive_fraction=0.25,
            box_in_features=list(POOLED),
            box_pooler=pooler(7),
            box_heads=[box_head(channels, heads) for _ in CASCADE],
            box_predictors=predictors,
            proposal_matchers=[L(Matcher)(thresholds=[iou], labels=[0, 1]) for iou, _ in CASCADE],
            **branch,
            select_boxes=select_boxes,
            rescore_masks=rescore_masks,
            mask_budget=mask_budget,
        ),
        pixel_mean=list(IMAGENET_MEAN),
        pixel_std=list(IMAGENET_STD),
        input_format="RGB",
    )


def softmax_loss() -> dict[str, Any]:
    """Cross-entropy over the classes and background (COCO, Objects365)."""
    return {}


def sigmoid_loss() -> dict[str, Any]:
    """Binary cross-entropy class by class."""
    return {"use_sigmoid_ce": True}


def federated_loss(dataset_names: str | list[str], *, num_classes: int = 50, freq_weight_power: float = 0.5) -> dict[str, Any]:
    """Sigmoid over `num_classes` classes drawn per batch and stage by image count ** power in the named data set (LVIS)."""
    weights = L(FederatedClassWeights)(
        dataset_names=dataset_names, freq_weight_power=freq_weight_power, num_classes="${..num_classes}"
    )
    return {**sigmoid_loss(), "use_fed_loss": True, "fed_loss_num_classes": num_classes, "get_fed_loss_cls_weights": weights}


def pyramid(net: DictConfig, channels: int = 256, image_size: int = 1024) -> DictConfig:
    """Maps of stride 4 to 32 from the one of stride 16, and a subsampled one of stride 64."""
    return L(MixedPrecisionPyramid)(
        net=net,
        in_feature="last_feat",
        out_channels=channels,
        scale_factors=[4.0, 2.0, 1.0, 0.5],
        top_block=L(LastLevelMaxPool)(),
        norm="LN",
        square_pad=image_size,
        train_dtype=None,
        eval_dtype=None,
    )


def proposal_network(channels: int = 256, proposals: Proposals = Proposals()) -> DictConfig:
    """Region proposals with two convolutions and three aspect ratios."""
    ratios = [0.5, 1.0, 2.0]
    return L(RPN)(
        in_features=list(STRIDES),
        head=L(StandardRPNHead)(in_channels=channels, num_anchors=len(ratios), conv_dims=[-1, -1]),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[side] for side in proposals.anchor_sizes_px], aspect_ratios=ratios, strides=list(STRIDES.values()), offset=0.0
        ),
        anchor_matcher=L(Matcher)(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=list(proposals.pre_nms_topk),
        post_nms_topk=list(proposals.post_nms_topk),
        nms_thresh=0.7,
    )


def pooler(side: int) -> DictConfig:
    """Regions of the four finest maps, resampled to side x side."""
    scales = [1 / STRIDES[name] for name in POOLED]
    return L(ROIPooler)(output_size=side, scales=scales, sampling_ratio=0, pooler_type="ROIAlignV2")


def box_head(channels: int, sizes: HeadSizes) -> DictConfig:
    """Convolutions and one fully connected layer on a 7 x 7 region."""
    return L(FastRCNNConvFCHead)(
        input_shape=L(ShapeSpec)(channels=channels, height=7, width=7),
        conv_dims=[channels] * sizes.box_convs,
        fc_dims=[sizes.box_width],
        conv_norm="LN",
    )


def box_predictor(
    width: int,
    num_classes: int | str,
    weights: Sequence[float],
    class_loss: dict[str, Any] | None = None,
    limits: tuple[float, int] = (0.05, 100),
) -> DictConfig:
    """Class scores and one box per region, the same for all classes."""
    return L(FastRCNNOutputLayers)(
        input_shape=L(ShapeSpec)(channels=width),
        box2box_transform=L(Box2BoxTransform)(weights=list(weights)),
        num_classes=num_classes,
        test_score_thresh=limits[0],
        test_nms_thresh=0.5,
        test_topk_per_image=limits[1],
        cls_agnostic_bbox_reg=True,
        **(class_loss or softmax_loss()),
    )


def mask_branch(channels: int, num_classes: int | str, convs: int = 4) -> dict[str, Any]:
    """Keywords of the heads for one 28 x 28 mask per class."""
    return {
        "mask_in_features": list(POOLED),
        "mask_pooler": pooler(14),
        "mask_head": L(MaskRCNNConvUpsampleHead)(
            input_shape=L(ShapeSpec)(channels=channels, height=14, width=14),
            num_classes=num_classes,
            conv_dims=[channels] * (convs + 1),  # the last one is the deconvolution
            conv_norm="LN",
        ),
    }
