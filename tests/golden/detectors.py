"""Builds the detector that a golden case describes, from the shared config functions."""

import hashlib
import json
from typing import Any

import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig

from configs.common.models import HeadSizes, Proposals, cascade_mask_rcnn, federated_loss, sigmoid_loss, softmax_loss
from eva02_det.modeling.pyramid import Eva02RCNN
from eva02_det.modeling.rescorers import Maskness
from eva02_det.modeling.selectors import HardNms, SoftNms
from eva02_det.modeling.vit import TrV
from tests.golden.cases import GoldenCase


def described_model(config: dict[str, Any]) -> DictConfig:
    """The config tree of a small detector."""
    roi, rpn, side = config["roi"], config["rpn"], config["backbone"]["img_size"]
    tree = cascade_mask_rcnn(
        _net(config["backbone"]),
        num_classes=config["num_classes"],
        image_size=side,
        channels=config["channels"],
        heads=HeadSizes(len(roi["box_conv_dims"]), roi["box_fc_dims"][-1], len(roi["mask_conv_dims"]) - 1),
        proposals=Proposals(
            [sizes[0] for sizes in rpn["anchor_sizes"]], rpn["pre_nms_topk_train_test"], rpn["post_nms_topk_train_test"]
        ),
        class_loss=_class_loss(config),
        select_boxes=_selector(roi),
        rescore_masks=L(Maskness)(threshold=roi["maskness_threshold"]) if roi["maskness_threshold"] is not None else None,
    )
    tree.proposal_generator.nms_thresh = rpn["nms_iou"]
    for node, sampling in ((tree.proposal_generator, rpn), (tree.roi_heads, roi)):
        node.batch_size_per_image, node.positive_fraction = sampling["batch_size_per_image"], sampling["positive_fraction"]
    return tree


def build(case: GoldenCase, tree: DictConfig) -> Eva02RCNN:
    """The detector with the weights of the case; each key must find its place."""
    model = instantiate(tree)
    weights = case.weights()
    if not case.config.get("federated_loss"):  # stored with a model that had it
        weights = {key: value for key, value in weights.items() if not key.endswith("fed_loss_cls_weights")}
    model.load_state_dict(weights, strict=True)
    return model


def described_inputs(case: GoldenCase) -> list[dict[str, Any]]:
    """The images, to be resized back to the size that the case asks for."""
    sizes = case.config["output_sizes_hw"]
    owner = case if "in.image.0" in case.tensors else case.source()
    images = [owner.tensor(f"in.image.{index}") for index in range(len(sizes))]
    return [{"image": image, "height": height, "width": width} for image, (height, width) in zip(images, sizes)]


def data_set_with_counts(image_counts: list[int]) -> str:
    """Name of a data set, made known here, whose classes occur in so many images."""
    name = "golden_" + hashlib.sha1(json.dumps(image_counts).encode()).hexdigest()[:12]
    counts = [{"id": index, "image_count": count} for index, count in enumerate(image_counts, start=1)]
    MetadataCatalog.get(name).set(class_image_count=counts)
    return name


def _net(backbone: dict[str, Any]) -> DictConfig:
    windowed = backbone["window_block_indexes"]
    return L(TrV)(
        embed_dim=backbone["embed_dim"],
        depth=backbone["depth"],
        num_heads=backbone["num_heads"],
        patch_size=backbone["patch_size"],
        window_size=backbone["window_size"],
        global_block_indexes=[index for index in range(backbone["depth"]) if index not in windowed],
    )


def _class_loss(config: dict[str, Any]) -> dict[str, Any]:
    if config.get("federated_loss"):
        return federated_loss(
            data_set_with_counts(config["class_frequency"]),
            num_classes=config["fed_loss_num_classes"],
            freq_weight_power=config["fed_loss_frequency_power"],
        )
    return sigmoid_loss() if config.get("sigmoid_classification") else softmax_loss()


def _selector(roi: dict[str, Any]) -> DictConfig:
    if not roi["use_soft_nms"]:
        return L(HardNms)(score_threshold=roi["test_score_threshold"], max_detections=roi["test_topk_per_image"])
    override = roi["override_score_threshold"]
    return L(SoftNms)(
        method=roi["soft_nms_method"],
        iou_threshold=roi["soft_nms_iou_threshold"],
        score_threshold=roi["test_score_threshold"] if override is None else override,
        per_class=roi["soft_nms_class_wise"],
    )


def nearest(boxes: torch.Tensor, classes: torch.Tensor, of_boxes: torch.Tensor, of_classes: torch.Tensor) -> torch.Tensor:
    """For each of the second detections the row of the first of the same class whose box is closest. -> [M]."""
    distance = (of_boxes[:, None] - boxes).abs().amax(-1)
    return distance.masked_fill(of_classes[:, None] != classes, torch.inf).argmin(1)
