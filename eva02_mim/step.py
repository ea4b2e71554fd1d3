"""One optimiser step of pre-training, and its loss. Nothing in it waits for the device.

Axes: B images, N patches, K places for hidden patches (padded: weight 0), D width of the teacher's features, S pixels a side.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from eva02_det.utils.errors import UserError
from eva02_mim.hidden import HiddenTokens
from eva02_mim.loss import hidden_token_loss
from eva02_mim.parallel import gradient_exchange, sum_over_ranks
from eva02_mim.precision import LossScale, autocast
from eva02_mim.teacher import Teacher, features_of
from eva02_mim.update import apply_gradients, set_rate

AVERAGES = ("rank", "global")


@dataclass(frozen=True)
class Batch:
    """What a loader gives: images uint8 [B, 3, S, S], hidden patches [B, K] and their weights, numbers of the samples [B].

    targets: the teacher's features of the hidden patches, [B, K, D], where they come from a cache.
    """

    images: Tensor
    hidden: HiddenTokens
    sample: Tensor
    targets: Tensor | None = None

    @classmethod
    def of(cls, drawn: Mapping[str, Tensor], device: torch.device) -> "Batch":
        """On the device; the numbers of the samples stay on the host, for which alone they are."""
        images, index, weight = (drawn[key].to(device, non_blocking=True) for key in ("images", "index", "weight"))
        targets = drawn["targets"].to(device, non_blocking=True) if "targets" in drawn else None
        return cls(images, HiddenTokens(index, weight), drawn["sample"], targets)

    def split(self, parts: int) -> list["Batch"]:
        """Micro-batches of equal size, in order."""
        if len(self.images) % parts:
            raise UserError(
                f"a batch of {len(self.images)} images a process does not split into train.accumulate={parts} equal parts; "
                f"choose a divisor"
            )
        split = (self.images, self.hidden.index, self.hidden.weight, self.sample)
        targets = [None] * parts if self.targets is None else self.targets.chunk(parts)
        return [Batch(i, HiddenTokens(n, w), s, t) for i, n, w, s, t in zip(*(tensor.chunk(parts) for tensor in split), targets)]


@dataclass(frozen=True)
class Outcome:
    """What a step did, as scalars on the device.

    loss: of this process; its mean over all is the loss of the step. norm: of the whole gradient before clipping. skipped:
    the weights stayed. fault: skipped for values that no smaller loss scale mends. wrong: [B] bool, images of this process
    whose features or predictions are not finite. sample: [B], on the host.
    """

    loss: Tensor
    norm: Tensor
    skipped: Tensor
    fault: Tensor
    wrong: Tensor
    sample: Tensor


@dataclass
class PretrainStep:
    """Student and teacher on one batch: forward, backward, clipping, update; a step that is not finite changes nothing.

    Args:
        student: possibly distributed; (normalised images, hidden tokens) -> predictions [B, K, D].
        teacher: uint8 images -> features [B, N, D].
        optimizer: fused where it can skip a step without the host's word.
        normalise: uint8 images -> what the student sees.
        clip_norm: bound of the norm of the whole gradient, None for none.
        accumulate: micro-batches that the batch of a process is split into; gradients are those of their mean.
        average: over "rank": the mean of the tokens of each micro-batch, then of these means, as published; "global": of all
            tokens of the step, equal where all images hide as many patches.
    """

    student: nn.Module
    teacher: Teacher
    optimizer: torch.optim.Optimizer
    normalise: nn.Module
    device: torch.device
    precision: str = "bf16"
    clip_norm: float | None = 3.0
    accumulate: int = 1
    average: str = "rank"
    scale: LossScale = field(init=False)

    def __post_init__(self) -> None:
        if self.average not in AVERAGES:
            raise UserError(f"train.average={self.average} is not one of {', '.join(AVERAGES)}")
        autocast(self.precision, self.device)  # refuses an unknown name
        self.scale = LossScale(self.device, enabled=self.precision == "fp16")

    def __call__(self, batch: Batch, lr: float) -> Outcome:
        """Learn from `batch`, the part of this process, with the learning rate `lr`."""
        set_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        parts = batch.split(self.accumulate)
        shares = self._shares(parts)
        losses, wrong = [], []
        for number, (part, share) in enumerate(zip(parts, shares)):
            with gradient_exchange(self.student, last=number == len(parts) - 1):
                loss, not_finite = self.loss(part)
                (loss * share * self.scale.value).backward()
            losses.append(loss.detach() * share)
            wrong.append(not_finite)
        loss = torch.stack(losses).sum()
        norm, skipped, fault = apply_gradients(self.optimizer, self.scale, loss, self.clip_norm)
        return Outcome(loss, norm, skipped, fault, torch.cat(wrong), batch.sample)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean loss of the hidden tokens of a micro-batch, and [B] bool: images whose values are not finite."""
        targets = batch.targets
        if targets is None:
            targets = features_of(self.teacher, batch.images, batch.hidden.index)
        with autocast(self.precision, self.device):
            predictions = self.student(self.normalise(batch.images), batch.hidden)
        loss = hidden_token_loss(predictions, targets, batch.hidden.weight)
        sums = predictions.detach().float().sum((1, 2)) + targets.float().sum((1, 2))
        return loss, ~sums.isfinite()

    def _shares(self, parts: list[Batch]) -> list[Tensor | float]:
        """Factor of each micro-batch's mean: the gradient is their sum here, and the mean over the ranks."""
        if self.average == "rank":
            return [1 / len(parts)] * len(parts)
        counts = torch.stack([part.hidden.weight.sum() for part in parts])
        return list(counts * comm.get_world_size() / sum_over_ranks(counts.sum()))
