"""A read-out without training: each image gets the classes of the nearest training images (k-NN).

Axes: M training images, B images of a chunk, K neighbours, W width of the features, C classes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from eva02_det.utils.errors import UserError
from eva02_mim.accuracy import BEST
from eva02_mim.features import Floats
from eva02_mim.order import Ints

QUERIES, CHUNK = 1024, 65_536  # images, training images at once: 268 MB of similarities


@dataclass(frozen=True)
class NearestNeighbours:
    """Votes of the k nearest by cosine similarity, each of weight exp(similarity / temperature); 20 and 0.07 are customary."""

    k: int = 20
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if self.k < 1 or self.temperature <= 0:
            raise UserError(f"neighbours.k={self.k} must be at least 1 and neighbours.temperature={self.temperature} above 0")

    def __call__(
        self, train: Floats, train_labels: Ints, features: Floats, labels: Ints, classes: int, device: torch.device
    ) -> dict[str, float]:
        """{"top1", "top5"} in per cent of the rows of `features`. A class without a vote is no answer."""
        solved = torch.zeros(2, dtype=torch.int64)
        for first in range(0, len(labels), QUERIES):
            part = slice(first, first + QUERIES)
            queries = F.normalize(torch.from_numpy(features[part]).to(device), dim=1)
            similarity, nearest = self._nearest(queries, torch.from_numpy(train))
            votes = torch.zeros(len(queries), classes, device=device)
            voters = torch.from_numpy(train_labels)[nearest.cpu()].to(device)
            # relative to the nearest one, so that no small temperature overflows
            votes.scatter_add_(1, voters, ((similarity - similarity[:, :1]) / self.temperature).exp())
            number, best = votes.topk(min(BEST, classes), dim=1)
            right = (best.cpu() == torch.from_numpy(labels[part])[:, None]) & (number.cpu() > 0)
            solved += torch.stack((right[:, 0].sum(), right.any(1).sum()))
        top1, top5 = (100 * solved / len(labels)).tolist()
        return {"top1": top1, "top5": top5}

    def _nearest(self, queries: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
        """(similarity, number) of the k nearest training images, the nearest first: [B, W], [M, W] -> [B, K] twice."""
        similarity = queries.new_empty(len(queries), 0)
        numbers = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
        for first in range(0, len(train), CHUNK):
            keys = F.normalize(train[first : first + CHUNK].to(queries.device), dim=1)
            found, place = (queries @ keys.T).topk(min(self.k, len(keys)), dim=1)
            together = torch.cat((similarity, found), 1)
            similarity, kept = together.topk(min(self.k, together.shape[1]), dim=1)
            numbers = torch.cat((numbers, place + first), 1).gather(1, kept)
        return similarity, numbers
