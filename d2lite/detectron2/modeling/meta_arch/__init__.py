"""Whole detectors."""

from .rcnn import GeneralizedRCNN

__all__ = ["GeneralizedRCNN"]
