"""The simple feature pyramid with its own mixed-precision region, and a detector that pads for it."""

from contextlib import nullcontext
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN, SimpleFeaturePyramid
from detectron2.structures import ImageList
from torch import Tensor

from eva02_det.utils.errors import UserError

LOW_PRECISION = {None: None, "bf16": torch.bfloat16, "fp16": torch.float16}


class MixedPrecisionPyramid(SimpleFeaturePyramid):
    """`SimpleFeaturePyramid` that runs itself and its net in low precision and hands out float32.

    Everything behind it (proposals, heads, losses) thereby stays in float32 whatever the precision of the backbone; that
    is where the released training draws the line. Released evaluation is float32 throughout: eval_dtype=None.

    Args:
        train_dtype, eval_dtype: None (leave precision alone), "bf16" or "fp16", while training and otherwise.
        **kwargs: those of `SimpleFeaturePyramid`; square_pad=0 pads a batch only to the stride of its coarsest map.
    """

    def __init__(self, *, train_dtype: str | None = None, eval_dtype: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, dtype in (("train_dtype", train_dtype), ("eval_dtype", eval_dtype)):
            if dtype not in LOW_PRECISION:
                raise UserError(f"MixedPrecisionPyramid({name}={dtype!r}) in the config: {name} must be null, bf16 or fp16")
        self.train_dtype = train_dtype
        self.eval_dtype = eval_dtype

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Side of the square and stride, under the key that `ImageList` reads (the parent misspells the second)."""
        return {"square_size": super().padding_constraints["square_size"], "size_divisibility": self._size_divisibility}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] -> {"p2": [B, C, H/4, W/4], ...} in float32."""
        dtype = LOW_PRECISION[self.train_dtype if self.training else self.eval_dtype]
        with nullcontext() if dtype is None else torch.autocast(images.device.type, dtype):
            maps = super().forward(images)
        return {name: level.float() for name, level in maps.items()}


class Eva02RCNN(GeneralizedRCNN):
    """`GeneralizedRCNN` that enlarges the padding square for an image that does not fit, instead of cutting the image."""

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalised and zero-padded at the right and the bottom."""
        images = [(entry["image"].to(self.device) - self.pixel_mean) / self.pixel_std for entry in batched_inputs]
        padding = dict(self.backbone.padding_constraints)
        if padding.get("square_size", 0) > 0:
            padding["square_size"] = max(padding["square_size"], *(side for image in images for side in image.shape[-2:]))
        return ImageList.from_tensors(images, self.backbone.size_divisibility, padding_constraints=padding)
