"""Mask prediction for regions of interest (Mask R-CNN, arXiv:1703.06870).

Axes: R regions of the batch, K classes, S side of a mask.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec, get_norm
from detectron2.structures import Instances
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn

from ._statistics import log_masks

PREDICTOR_STD = 0.001


class BaseMaskRCNNHead(nn.Module):
    """What all mask heads share; a subclass says in `layers` how features become logits [R, K, S, S]."""

    def __init__(self, *, loss_weight: float = 1.0, vis_period: int = 0) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.vis_period = vis_period

    def layers(self, x: Tensor) -> Tensor:
        """[R, C, h, w] -> [R, K, S, S]."""
        raise NotImplementedError

    def forward(self, x: Tensor, instances: list[Instances]) -> dict[str, Tensor] | list[Instances]:
        """In training the dictionary with `loss_mask`; otherwise the instances, with `pred_masks` [R_i, 1, S, S] added."""
        logits = self.layers(x)
        if not self.training:
            mask_rcnn_inference(logits, instances)
            return instances
        return {"loss_mask": self.loss_weight * mask_rcnn_loss(logits, instances, self.vis_period)}


class MaskRCNNConvUpsampleHead(BaseMaskRCNNHead, nn.Sequential):
    """3 x 3 convolutions `mask_fcn1`, ... (norm, ReLU), `deconv` to twice the size (ReLU), 1 x 1 `predictor`.

    The last of `conv_dims` is the width of the deconvolution, the others are those of the convolutions.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        conv_dims: list[int],
        conv_norm: str | Callable[[int], nn.Module] = "",
        **kwargs: float,
    ) -> None:
        super().__init__(**kwargs)
        if not conv_dims:
            raise AssertionError("conv_dims needs at least the width of the deconvolution")
        *convolutions, top = conv_dims
        channels = input_shape.channels
        for number, width in enumerate(convolutions, start=1):
            options = {"norm": get_norm(conv_norm, width), "bias": not conv_norm, "activation": nn.ReLU()}
            self.add_module(f"mask_fcn{number}", Conv2d(channels, width, kernel_size=3, padding=1, **options))
            channels = width
        self.add_module("deconv", ConvTranspose2d(channels, top, kernel_size=2, stride=2))
        self.add_module("deconv_relu", nn.ReLU())
        for layer in self.children():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                c2_msra_fill(layer)
        self.add_module("predictor", Conv2d(top, num_classes, kernel_size=1))
        nn.init.normal_(self.predictor.weight, std=PREDICTOR_STD)
        nn.init.zeros_(self.predictor.bias)

    def layers(self, x: Tensor) -> Tensor:
        """[R, C, h, w] -> [R, K, 2h, 2w]."""
        return nn.Sequential.forward(self, x)


def mask_rcnn_loss(pred_mask_logits: Tensor, instances: list[Instances], vis_period: int = 0) -> Tensor:
    """Mean binary cross-entropy of the labelled class's mask against the ground truth inside each proposal.

    logits [R, K, S, S] (K = 1: one mask for all classes); the instances, R together, carry `proposal_boxes`,
    `gt_classes` and `gt_masks`. Without regions it is a differentiable 0.
    """
    side = pred_mask_logits.shape[-1]
    if pred_mask_logits.shape[-2] != side:
        raise AssertionError(f"masks must be square, got {tuple(pred_mask_logits.shape[-2:])}")
    filled = [image for image in instances if len(image)]
    if not filled:
        return 0.0 * pred_mask_logits.sum()
    crops = [image.gt_masks.crop_and_resize(image.proposal_boxes.tensor, side) for image in filled]
    targets = torch.cat([crop.to(pred_mask_logits.device) for crop in crops])
    logits = _of_class(pred_mask_logits, torch.cat([image.gt_classes for image in filled]))
    log_masks(logits.detach(), targets)
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


def mask_rcnn_inference(pred_mask_logits: Tensor, pred_instances: list[Instances]) -> None:
    """Give the instances `pred_masks`, the probabilities of the predicted class. [R, K, S, S] -> [R_i, 1, S, S] each."""
    classes = [image.pred_classes for image in pred_instances]
    flat = torch.cat(classes) if classes else torch.zeros(0, dtype=torch.int64, device=pred_mask_logits.device)
    probs = _of_class(pred_mask_logits, flat)[:, None].sigmoid()
    for image, masks in zip(pred_instances, probs.split([len(image) for image in pred_instances])):
        image.pred_masks = masks


def _of_class(logits: Tensor, classes: Tensor) -> Tensor:
    """The channel of each region's class, [R, K, S, S] -> [R, S, S]."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits[torch.arange(len(classes), device=logits.device), classes.to(logits.device)]
