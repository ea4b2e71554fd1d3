"""What happens during training: a store of scalars, and writers that report them."""

from ._event_storage import EventStorage, get_event_storage
from ._event_writers import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "TensorboardXWriter",
    "get_event_storage",
]
