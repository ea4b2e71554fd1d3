"""EVA-02 detection and instance segmentation with plain vision transformers, on the Detectron2 API."""

import warnings
from typing import Any

from eva02_det import _provider

__version__ = "0.1.0"
__all__ = ["Predictor"]

# fvcore scripts a function when it is imported, which current torch remarks on; no user of ours can do anything about it
warnings.filterwarnings("ignore", message=r".*torch\.jit\.script. is deprecated", category=FutureWarning)
_provider.activate()


def __getattr__(name: str) -> Any:
    """`eva02_det.Predictor`, imported when it is first asked for: it brings the whole package along."""
    if name == "Predictor":
        from eva02_det.engine.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
