"""Saving and loading of models and of what belongs to a run."""

from .detection_checkpoint import DetectionCheckpointer

__all__ = ["DetectionCheckpointer"]
