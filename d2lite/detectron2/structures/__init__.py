"""Boxes, masks and the per-image record that carries them."""

from .boxes import Boxes, BoxMode, pairwise_intersection, pairwise_iou
from .image_list import ImageList
from .instances import Instances
from .masks import BitMasks, PolygonMasks, polygons_to_bitmask

__all__ = [
    "BitMasks",
    "BoxMode",
    "Boxes",
    "ImageList",
    "Instances",
    "PolygonMasks",
    "pairwise_intersection",
    "pairwise_iou",
    "polygons_to_bitmask",
]
