"""The part of the detectron2 API that eva02_det imports, for machines without the official package."""

__version__ = "0.6+d2lite"
