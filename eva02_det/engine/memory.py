"""How much GPU memory a training step needs, by formula, before any GPU is used."""

from dataclasses import dataclass

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from eva02_det.utils.config import get

GIB = 2**30


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one process: what every step holds, and what each image adds."""

    fixed: dict[str, int]
    per_image: dict[str, int]

    def total_gib(self, images: int) -> float:
        return (sum(self.fixed.values()) + images * sum(self.per_image.values())) / GIB


def estimate_memory(config: DictConfig) -> MemoryEstimate:
    """The estimate for a config."""
    with torch.device("meta"):
        model: nn.Module = instantiate(config.model)
    count = sum(p.numel() for p in model.parameters())
    fixed = {"weights": 4 * count, "gradients": 4 * count, "AdamW": 8 * count}
    if get(config, "train.ema.decay") is not None:
        fixed["weight average"] = 4 * count
    return MemoryEstimate(fixed, {})
