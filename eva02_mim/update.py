"""What follows the backward pass of a step: clip, update, leave out a step that is not finite. Nothing waits for the device."""

import torch
from torch import Tensor, nn

from eva02_mim.parallel import any_rank, whole
from eva02_mim.precision import LossScale


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step; a group with `lr_scale` gets that part of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def apply_gradients(
    optimizer: torch.optim.Optimizer, scale: LossScale, loss: Tensor, clip_norm: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Clip and step; (norm, skipped, fault), scalars on the device, the last two the same on all ranks.

    norm: of the whole gradient, before clipping. skipped: the weights stayed. fault: skipped for values that no smaller loss
    scale mends. clip_norm: bound of the norm, None for none.
    """
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    scaled = whole(nn.utils.get_total_norm(grads))
    norm = scaled / scale.value
    loss_bad = ~loss.isfinite()
    loss_bad, skipped = any_rank(torch.stack((loss_bad, loss_bad | ~norm.isfinite())))
    fault = loss_bad | (skipped & scale.at_floor)  # what no smaller scale mends
    divisor = scale.value.clone()
    if clip_norm is not None:
        divisor = divisor * ((norm + 1e-6) / clip_norm).clamp(min=1)
    _step(optimizer, grads, divisor, skipped)
    scale.update(skipped & ~fault)
    return norm, skipped, fault


def _step(optimizer: torch.optim.Optimizer, grads: list[Tensor], divisor: Tensor, skipped: Tensor) -> None:
    """Update by the gradients over `divisor`, unless `skipped`.

    A fused optimiser reads both on the device and divides while it updates, so that loss scale and clipping cost no pass over
    the gradients. For another one the host looks.
    """
    if optimizer.defaults.get("fused"):
        # torch.amp.GradScaler hands them over under the same names
        setattr(optimizer, "grad_scale", divisor)  # noqa: B010
        setattr(optimizer, "found_inf", skipped.float())  # noqa: B010
        optimizer.step()
    elif not bool(skipped):
        torch._foreach_div_(grads, divisor)
        optimizer.step()
