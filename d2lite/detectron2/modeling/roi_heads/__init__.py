"""Heads that work on regions of interest."""

from .box_head import FastRCNNConvFCHead
from .cascade_rcnn import CascadeROIHeads
from .fast_rcnn import FastRCNNOutputLayers
from .mask_head import MaskRCNNConvUpsampleHead
from .roi_heads import ROIHeads, StandardROIHeads

__all__ = [
    "CascadeROIHeads",
    "FastRCNNConvFCHead",
    "FastRCNNOutputLayers",
    "MaskRCNNConvUpsampleHead",
    "ROIHeads",
    "StandardROIHeads",
]
