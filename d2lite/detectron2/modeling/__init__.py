"""Parts of detectors, and the detector made of them."""

from .anchor_generator import DefaultAnchorGenerator
from .backbone import Backbone, SimpleFeaturePyramid, ViT, get_vit_lr_decay_rate
from .meta_arch import GeneralizedRCNN
from .postprocessing import detector_postprocess

__all__ = [
    "Backbone",
    "DefaultAnchorGenerator",
    "GeneralizedRCNN",
    "SimpleFeaturePyramid",
    "ViT",
    "detector_postprocess",
    "get_vit_lr_decay_rate",
]
