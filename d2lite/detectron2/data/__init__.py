"""From annotation files to batches: catalogs, mapper, samplers and loaders."""

from .build import build_detection_test_loader, build_detection_train_loader, get_detection_dataset_dicts
from .catalog import DatasetCatalog, MetadataCatalog
from .dataset_mapper import DatasetMapper

__all__ = [
    "DatasetCatalog",
    "DatasetMapper",
    "MetadataCatalog",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "get_detection_dataset_dicts",
]
