"""AdamW in its fastest form, and learning-rate factors of plain vision transformers, as objects that a YAML file can hold."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.modeling import get_vit_lr_decay_rate
from torch.optim import AdamW

from eva02_det.utils.errors import UserError

FUSED = ("auto", True, False)


@dataclass(frozen=True)
class LayerDecay:
    """Parameter name -> learning-rate factor: rate^(depth + 1 - block), 1 outside the backbone (specification 7.2)."""

    rate: float
    depth: int

    def __call__(self, name: str) -> float:
        return get_vit_lr_decay_rate(name, lr_decay_rate=self.rate, num_layers=self.depth)


def build_adamw(
    params: Iterable[Any],
    *,
    lr: float,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    fused: bool | str = "auto",
) -> AdamW:
    """AdamW over parameter groups.

    fused: all weights in one kernel. "auto": where the device of the parameters has such a kernel (CUDA, CPU and others), and
    plainly elsewhere; True: an error there. The two differ in rounding only.
    """
    if fused not in FUSED:
        raise UserError(f"optimizer.fused={fused!r} must be auto, true or false")
    groups = list(params)
    options = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
    if fused != "auto":
        return AdamW(groups, fused=bool(fused), **options)
    try:
        return AdamW(groups, fused=True, **options)
    except RuntimeError:  # AdamW says so for a device without the kernel
        return AdamW(groups, **options)
