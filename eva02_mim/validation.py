"""The loss on images that are not learnt from, under one fixed mask."""

from collections.abc import Iterable, Mapping

import torch
from detectron2.utils import comm
from torch import Tensor

from eva02_det.utils.errors import UserError
from eva02_mim.parallel import is_sharded, sum_over_ranks
from eva02_mim.step import Batch, PretrainStep


@torch.no_grad()
def validation_loss(step: PretrainStep, batches: Iterable[Mapping[str, Tensor]]) -> float:
    """Mean loss of all hidden tokens of `batches`, over all ranks; every rank must call this with its part of the images."""
    total = torch.zeros(2, dtype=torch.float64, device=step.device)  # sum of losses, tokens
    was_training = step.student.training
    step.student.eval()
    last, count = None, 0
    for drawn in batches:
        last = Batch.of(drawn, step.device)
        total += _sums(step, last)
        count += 1
    _keep_company(step, last, count)
    step.student.train(was_training)
    summed, tokens = sum_over_ranks(total).tolist()
    return summed / max(tokens, 1)


def _sums(step: PretrainStep, batch: Batch) -> Tensor:
    """Sum of the losses of the hidden tokens, and their number."""
    loss, _ = step.loss(batch)
    tokens = batch.hidden.weight.sum()
    return torch.stack((loss * tokens, tokens)).double()


def _keep_company(step: PretrainStep, last: Batch | None, count: int) -> None:
    """A sharded student runs only in all ranks at once: those with fewer batches repeat their last one, uncounted."""
    if not is_sharded(step.student):
        return
    counts = comm.all_gather(count)
    if last is None or min(counts) < 1:
        raise UserError(
            f"there are fewer validation images than the {len(counts)} processes; train.parallel=fsdp needs one for each: add "
            f"images or take fewer processes"
        )
    for _ in range(max(counts) - count):
        step.loss(last)
