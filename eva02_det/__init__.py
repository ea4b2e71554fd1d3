"""EVA-02 detection and instance segmentation with plain vision transformers, on the Detectron2 API."""

from eva02_det import _provider

__version__ = "0.1.0"

_provider.activate()
