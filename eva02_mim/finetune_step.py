"""One optimiser step of fine-tuning: label-smoothing cross-entropy on uint8 crops. Nothing in it waits for the device.

Axes: B images, S pixels a side, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eva02_det.utils.errors import UserError
from eva02_mim.parallel import bare, gradient_exchange
from eva02_mim.precision import LossScale, autocast
from eva02_mim.step import Outcome
from eva02_mim.update import apply_gradients, set_rate


@dataclass(frozen=True)
class Labelled:
    """A batch: images uint8 [B, 3, S, S], labels int64 [B], numbers of the samples [B], which stay on the host."""

    images: Tensor
    labels: Tensor
    sample: Tensor

    @classmethod
    def of(cls, drawn: Mapping[str, Tensor], device: torch.device) -> "Labelled":
        """What a loader gives, on the device."""
        images, labels = (drawn[key].to(device, non_blocking=True) for key in ("images", "label"))
        return cls(images, labels, drawn["sample"])

    def split(self, parts: int) -> list["Labelled"]:
        """Micro-batches of equal size, in order."""
        return [Labelled(*part) for part in zip(*(t.chunk(parts) for t in (self.images, self.labels, self.sample)))]


@dataclass
class FinetuneStep:
    """A classifier on one batch: forward, backward, update, average; a step that is not finite changes no weight.

    Args:
        model: possibly distributed; normalised images -> logits [B, C].
        optimizer: its groups may have `lr_scale`, their part of the rate.
        normalise: uint8 images -> what the model sees.
        label_smoothing: share of the target that all classes have in equal parts.
        average: has `update(model)`, called after every step (also after one that was left out, as released); None for none.
        shrinking: weights that do not learn but decay, with their decay at a rate of 1: weight <- weight (1 - rate decay).
        clip_norm: None, as published, for no clipping.
        accumulate: micro-batches that the batch of a process is split into; gradients are those of their mean.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    normalise: nn.Module
    device: torch.device
    precision: str = "bf16"
    label_smoothing: float = 0.1
    average: Any = None
    shrinking: Sequence[tuple[Tensor, float]] = ()
    clip_norm: float | None = None
    accumulate: int = 1
    scale: LossScale = field(init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"train.label_smoothing={self.label_smoothing} must be at least 0 and below 1")
        autocast(self.precision, self.device)  # refuses an unknown name
        self.scale = LossScale(self.device, enabled=self.precision == "fp16")

    def __call__(self, batch: Labelled, lr: float) -> Outcome:
        """Learn from `batch`, the part of this process, with the learning rate `lr`."""
        set_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        losses, wrong = [], []
        for number, part in enumerate(batch.split(self.accumulate)):
            with gradient_exchange(self.model, last=number == self.accumulate - 1):
                loss, not_finite = self.loss(part)
                (loss / self.accumulate * self.scale.value).backward()
            losses.append(loss.detach() / self.accumulate)
            wrong.append(not_finite)
        loss = torch.stack(losses).sum()
        norm, skipped, fault = apply_gradients(self.optimizer, self.scale, loss, self.clip_norm)
        for weight, decay in self.shrinking:
            weight.detach().mul_(1 - lr * decay * ~skipped)
        if self.average is not None:
            self.average.update(bare(self.model))
        return Outcome(loss, norm, skipped, fault, torch.cat(wrong), batch.sample)

    def loss(self, batch: Labelled) -> tuple[Tensor, Tensor]:
        """Mean loss of a micro-batch in fp32, and [B] bool: images whose logits are not finite."""
        with autocast(self.precision, self.device):
            logits = self.model(self.normalise(batch.images))
        loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.label_smoothing)
        return loss, ~logits.detach().float().sum(1).isfinite()
