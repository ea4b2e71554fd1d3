"""Parts of detectors."""

from .backbone import Backbone, SimpleFeaturePyramid, get_vit_lr_decay_rate

__all__ = ["Backbone", "SimpleFeaturePyramid", "get_vit_lr_decay_rate"]
