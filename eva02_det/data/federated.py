"""Class weights of the federated loss, as a config node."""

from dataclasses import dataclass

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import get_fed_loss_cls_weights

from eva02_det.data.counts import ImageCounts
from eva02_det.data.registration import register_builtin
from eva02_det.utils.errors import UserError


@dataclass(frozen=True)
class FederatedClassWeights:
    """What `FastRCNNOutputLayers(get_fed_loss_cls_weights=...)` calls without arguments.

    Image counts of the data set's classes, from the user's own annotation file, to the given power. A record, because a
    config that holds a function closed over its arguments cannot be written as YAML.

    num_classes: how many classes the model has; a file with another number is refused. A model that is built on the meta
    device, to be counted only, then gets weights without values and needs no file.
    """

    dataset_names: str | list[str]
    freq_weight_power: float = 0.5
    num_classes: int | None = None

    def __call__(self) -> torch.Tensor:
        """[K] weights of being drawn as a negative class."""
        if self.num_classes is not None and torch.get_default_device().type == "meta":
            return torch.empty(self.num_classes)
        name = self.dataset_names if isinstance(self.dataset_names, str) else next(iter(self.dataset_names))
        register_builtin()
        metadata = MetadataCatalog.get(name)
        if metadata.get("class_image_count") is None:
            self._count(name)
        weights = get_fed_loss_cls_weights(name, self.freq_weight_power)
        if self.num_classes is not None and len(weights) != self.num_classes:
            raise UserError(
                f"{metadata.get('json_file') or name} has {len(weights)} classes, but the model has {self.num_classes}; "
                f"set model.roi_heads.num_classes={len(weights)}, or use the annotations that the model was made for"
            )
        return weights

    @staticmethod
    def _count(name: str) -> None:
        """Count in the file of a data set that does not state the number of images of each class."""
        file = MetadataCatalog.get(name).get("json_file")
        if file is None or name not in DatasetCatalog.list():
            raise UserError(
                f"the federated loss needs the image counts of data set {name!r}, which is not registered with an annotation "
                "file; correct its name, or register it first"
            )
        MetadataCatalog.get(name).class_image_count = ImageCounts(str(file))
