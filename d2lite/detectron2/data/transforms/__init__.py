"""Image augmentations: fvcore's transforms plus the resizing and cropping that detectors train with."""

from fvcore.transforms.transform import CropTransform, HFlipTransform, NoOpTransform, PadTransform, Transform, TransformList

from .augmentation import AugInput, Augmentation, AugmentationList
from .augmentation_impl import FixedSizeCrop, RandomFlip, ResizeScale, ResizeShortestEdge
from .transform import ResizeTransform

__all__ = [
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "CropTransform",
    "FixedSizeCrop",
    "HFlipTransform",
    "NoOpTransform",
    "PadTransform",
    "RandomFlip",
    "ResizeScale",
    "ResizeShortestEdge",
    "ResizeTransform",
    "Transform",
    "TransformList",
]
