"""Backbones and pyramids."""

from .backbone import Backbone
from .fpn import LastLevelMaxPool
from .vit import SimpleFeaturePyramid, ViT, get_vit_lr_decay_rate

__all__ = ["Backbone", "LastLevelMaxPool", "SimpleFeaturePyramid", "ViT", "get_vit_lr_decay_rate"]
