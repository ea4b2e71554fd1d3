"""Top-1 and top-5 of a classifier, counted exactly: every image once, whatever the batch size and the number of processes.

Axes: M images, B of them in a batch, R rows of the head, A rows that are right for an image, K best rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from eva02_det.utils.errors import UserError
from eva02_det.utils.processes import in_all
from eva02_det.utils.sources.base import Source
from eva02_mim.crops import Crop
from eva02_mim.labelled import CroppedImages, batches_of, my_share
from eva02_mim.normalise import Normalise
from eva02_mim.order import Ints
from eva02_mim.parallel import sum_over_ranks
from eva02_mim.precision import autocast

BEST = 5


@dataclass(frozen=True)
class Questions:
    """Images and the rows of the head that are right for them."""

    source: Source
    numbers: Ints  # [M], of the images in the source
    right: Ints  # [M, A] rows, -1 where an image has fewer
    classes: int  # rows that the head must have; 0: any number
    competing: Ints | None = None  # [R] the rows among which the best are looked for; None: all


@dataclass(frozen=True)
class Reading:
    """How images are shown to a model."""

    side: int  # pixels
    crop: Crop
    normalise: Normalise
    batch_size: int
    workers: int
    device: torch.device
    precision: str = "fp32"


def padded(rows: list[tuple[int, ...]]) -> Ints:
    """Right rows of each image as an array [M, A], filled up with -1."""
    table = np.full((len(rows), max(map(len, rows), default=1)), -1, dtype=np.int64)
    for image, right in enumerate(rows):
        table[image, : len(right)] = right
    return table


def hits(best: Tensor, right: Tensor) -> Tensor:
    """Whether each of the best rows [B, K] is a right one [B, A]: bool [B, K]."""
    return (best[:, :, None] == right[:, None, :]).any(-1)


def score(model: nn.Module, questions: Questions, reading: Reading) -> dict[str, float]:
    """{"top1", "top5"} in per cent of "images", over all processes, each of which must call this.

    An image counts as solved where the best row, or one of the five best, is among its right ones.
    model: normalised images [B, 3, S, S] -> logits [B, R], on the device of `reading`; left in the mode it came in.
    """
    return score_all({"": model}, questions, reading)[""]


def score_all(models: Mapping[str, nn.Module], questions: Questions, reading: Reading) -> dict[str, dict[str, float]]:
    """`score` of several models by name, which are shown each image together: it is read and cropped once."""
    was_training = {name: model.training for name, model in models.items()}
    try:
        counts = in_all(partial(_counts, [model.eval() for model in models.values()], questions, reading))
    finally:
        for name, model in models.items():
            model.train(was_training[name])
    rows = sum_over_ranks(counts.to(reading.device)).tolist()
    return {
        name: {"top1": 100 * top1 / images, "top5": 100 * top5 / images, "images": images}
        for name, (top1, top5, images) in zip(models, rows)
    }


@torch.inference_mode()
def _counts(models: Sequence[nn.Module], questions: Questions, reading: Reading) -> Tensor:
    """Images of this process that each model solves by its best row, by the five best, and all of them: int64 [models, 3]."""
    share = my_share(len(questions.numbers))
    right = torch.from_numpy(questions.right[share])
    images = CroppedImages(
        questions.source, questions.numbers[share], reading.crop, side=reading.side, batch_size=reading.batch_size
    )
    total = torch.zeros(len(models), 3, dtype=torch.int64)
    for pixels, places in batches_of(images, workers=reading.workers, device=reading.device):
        shown = reading.normalise(pixels)
        for row, model in enumerate(models):
            with autocast(reading.precision, reading.device):
                logits = model(shown).float()
            _require_logits(logits, questions, int(images.numbers[places[0]]))
            solved = hits(best_rows(logits, questions.competing).cpu(), right[places])
            total[row] += torch.stack((solved[:, 0].sum(), solved.any(1).sum(), torch.tensor(len(places))))
    return total


def best_rows(logits: Tensor, competing: Ints | None) -> Tensor:
    """The (at most five) rows with the highest logits, of all or of the competing ones: [B, R] -> int64 [B, K]."""
    if competing is None:
        return logits.topk(min(BEST, logits.shape[1]), dim=1).indices
    rows = torch.from_numpy(competing).to(logits.device)
    return rows[logits[:, rows].topk(min(BEST, len(rows)), dim=1).indices]


def _require_logits(logits: Tensor, questions: Questions, first: int) -> None:
    if questions.classes and logits.shape[1] != questions.classes:
        raise UserError(
            f"the model tells {logits.shape[1]} classes apart and these images have the labels of {questions.classes}; "
            f"evaluate a model with a head for ImageNet-1K"
        )
    if not bool(torch.isfinite(logits).all()):
        raise UserError(
            f"the model's logits are not finite in the batch that begins with {questions.source.name(first)}; evaluate in bf16 "
            f"or fp32, or look for values that are not finite in its weights"
        )
