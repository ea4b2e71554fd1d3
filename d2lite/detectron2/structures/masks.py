"""Masks of objects, as bitmaps or as polygons."""

from ._bit_masks import BitMasks
from ._polygon_masks import PolygonMasks, polygons_to_bitmask

__all__ = ["BitMasks", "PolygonMasks", "polygons_to_bitmask"]
