"""Class weights of the federated loss, as a config node."""

from dataclasses import dataclass

from detectron2.data.detection_utils import get_fed_loss_cls_weights
from torch import Tensor


@dataclass(frozen=True)
class FederatedClassWeights:
    """What `FastRCNNOutputLayers(get_fed_loss_cls_weights=...)` calls without arguments.

    Image counts of the data set's classes to the given power. A record, because a config that holds a function closed
    over its arguments cannot be written as YAML.
    """

    dataset_names: str | list[str]
    freq_weight_power: float = 0.5

    def __call__(self) -> Tensor:
        """[K] weights of being drawn as a negative class."""
        names = self.dataset_names if isinstance(self.dataset_names, str) else list(self.dataset_names)
        return get_fed_loss_cls_weights(names, self.freq_weight_power)
