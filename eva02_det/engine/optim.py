"""Learning-rate factors of plain vision transformers, as objects that a YAML file can hold."""

from dataclasses import dataclass

from detectron2.modeling import get_vit_lr_decay_rate


@dataclass(frozen=True)
class LayerDecay:
    """Parameter name -> learning-rate factor: rate^(depth + 1 - block), 1 outside the backbone (specification 7.2)."""

    rate: float
    depth: int

    def __call__(self, name: str) -> float:
        return get_vit_lr_decay_rate(name, lr_decay_rate=self.rate, num_layers=self.depth)
