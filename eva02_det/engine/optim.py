"""AdamW in its fastest form, and learning-rate factors of plain vision transformers, as objects that a YAML file can hold."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.modeling import get_vit_lr_decay_rate
from torch import Tensor
from torch.optim import AdamW

from eva02_det.utils.errors import UserError

FUSED = ("auto", True, False)
FUSED_DEVICES = ("cuda", "cpu", "mps", "xpu")  # on which torch 2.6 and later have the kernel


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

    fused: all weights in one kernel. "auto": where the device of the parameters has one, and plainly elsewhere; True: always,
    which torch refuses elsewhere. The two differ in rounding only.
    """
    if fused not in FUSED:
        raise UserError(f"optimizer.fused={fused!r} must be auto, true or false")
    groups = list(params)
    options = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
    return AdamW(groups, fused=_all_fusible(groups) if fused == "auto" else bool(fused), **options)


def _all_fusible(groups: Iterable[Any]) -> bool:
    """Whether every parameter, in groups or not, is one that the fused kernels take."""
    members = [group["params"] if isinstance(group, dict) else group for group in groups]
    parameters = [one for member in members for one in ([member] if isinstance(member, Tensor) else member)]
    return all(one.device.type in FUSED_DEVICES and one.is_floating_point() for one in parameters)
