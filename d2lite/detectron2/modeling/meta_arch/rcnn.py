"""A two-stage detector put together from its parts.

Axes: B images; C, H, W channels, rows, columns of an image.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ..backbone import Backbone
from ..postprocessing import detector_postprocess

Inputs = list[dict[str, Any]]


class GeneralizedRCNN(nn.Module):
    """Backbone, proposal generator and RoI heads.

    `pixel_mean` and `pixel_std` are subtracted and divided by, channel after channel, in the order `input_format` of
    the images. `vis_period` exists for the sake of the signature and must be 0.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module,
        roi_heads: nn.Module,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        input_format: str | None = None,
        vis_period: int = 0,
    ) -> None:
        super().__init__()
        if vis_period:
            raise ValueError("pictures of proposals during training are not offered here: vis_period must be 0")
        if len(pixel_mean) != len(pixel_std):
            raise AssertionError(f"pixel_mean has {len(pixel_mean)} channels, pixel_std {len(pixel_std)}")
        self.backbone, self.proposal_generator, self.roi_heads = backbone, proposal_generator, roi_heads
        self.input_format, self.vis_period = input_format, vis_period
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).reshape(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: Inputs) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Training: the losses by name. Test: for each input {"instances": detections}.

        An input holds `image` [C, H, W] with values 0..255, in training `instances` (gt_boxes, gt_classes, gt_masks), and
        may hold `height` and `width`, the size wanted for the detections.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        truth = [item["instances"].to(self.device) for item in batched_inputs] if "instances" in batched_inputs[0] else None
        features = self.backbone(images.tensor)
        proposals, losses_of_proposals = self.proposal_generator(images, features, truth)
        _, losses = self.roi_heads(images, features, proposals, truth)
        return {**losses, **losses_of_proposals}

    def inference(
        self,
        batched_inputs: Inputs,
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict[str, Instances]] | list[Instances]:
        """Detections; where boxes and classes are given, only what depends on them is computed.

        Without `do_postprocess` they stay in the coordinates of the network's input, masks not pasted.
        """
        if self.training:
            raise AssertionError("inference is for a model in eval mode")
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if detected_instances is None:
            proposals, _ = self.proposal_generator(images, features, None)
            found, _ = self.roi_heads(images, features, proposals, None)
        else:
            given = [image.to(self.device) for image in detected_instances]
            found = self.roi_heads.forward_with_given_boxes(features, given)
        return GeneralizedRCNN._postprocess(found, batched_inputs, images.image_sizes) if do_postprocess else found

    def preprocess_image(self, batched_inputs: Inputs) -> ImageList:
        """Images on the device, normalised, then padded with 0 as the backbone wants them."""
        raw = [item["image"].to(self.device) for item in batched_inputs]
        normalised = [(image - self.pixel_mean) / self.pixel_std for image in raw]
        return ImageList.from_tensors(
            normalised, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints
        )

    @staticmethod
    def _postprocess(
        instances: list[Instances], batched_inputs: Inputs, image_sizes: list[tuple[int, int]]
    ) -> list[dict[str, Instances]]:
        """Detections in the size that each input asks for, by default that of its image."""
        finished = []
        for found, item, (height, width) in zip(instances, batched_inputs, image_sizes, strict=True):
            size = (item.get("height", height), item.get("width", width))
            finished.append({"instances": detector_postprocess(found, *size)})
        return finished
