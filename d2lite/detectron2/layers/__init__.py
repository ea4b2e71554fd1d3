"""Building blocks of networks."""

from .batch_norm import LayerNorm, get_norm
from .mask_ops import paste_masks_in_image
from .nms import batched_nms
from .roi_align import ROIAlign
from .shape_spec import ShapeSpec
from .wrappers import Conv2d, ConvTranspose2d, cross_entropy

__all__ = [
    "Conv2d",
    "ConvTranspose2d",
    "LayerNorm",
    "ROIAlign",
    "ShapeSpec",
    "batched_nms",
    "cross_entropy",
    "get_norm",
    "paste_masks_in_image",
]
