"""Masks only for those detections that an evaluation can count, chosen without losing one of them.

Axes: M detections of one image, G groups (the whole image, or its classes), S side of a mask.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor

from eva02_det.modeling.rescorers import MaskRescorer
from eva02_det.modeling.selectors import rank_in_class, surely_have_area
from eva02_det.utils.errors import UserError

AddMasks = Callable[[Instances], Instances]
# the score of a mask differs in its last digits with the batch that it is computed in
ROUNDING = 1e-4


@dataclass(frozen=True)
class MaskBudget:
    """As many masks as an evaluation counts: `per_image` (LVIS: 300 or 1000) or `per_class` of each image (COCO: 100).

    An evaluation ranks boxes by one score and masks by another, and takes the first k of each list. A mask lowers the score
    s of its detection to c <= s. Masks are computed in descending s. Once k of them have c >= t, a detection with s < t has
    c < t, whatever its mask: it comes behind k others, and so does all that follows. This stops at the latest where section 5
    of the specification does (t is above half of the k-th largest s among masks that are not empty) and needs no special case
    for empty masks, whose c = 0 raises no t. Masks come in portions of `rows_at_once`, which bounds the memory of heads with a
    thousand classes; of the last portion some may be in vain. The first k by s are always among those with a mask, so that
    each detection that is returned has box and mask, and the lists of the evaluation are the same as without a budget.
    Boxes that may lose their area when they are scaled to the original image do not count towards k.
    """

    per_image: int | None = None
    per_class: int | None = None
    rows_at_once: int = 128

    def __post_init__(self) -> None:
        given = [limit for limit in (self.per_image, self.per_class) if limit is not None]
        if len(given) != 1 or given[0] < 1:
            both = f"MaskBudget(per_image={self.per_image}, per_class={self.per_class})"
            raise UserError(f"{both} in the config: give one of the two, at least 1")
        if self.rows_at_once < 1:
            raise UserError(f"MaskBudget(rows_at_once={self.rows_at_once}) in the config: it must be at least 1")

    def __call__(self, found: Instances, add_masks: AddMasks, rescorer: MaskRescorer | None) -> Instances:
        """Detections with `pred_boxes`, `scores` and `pred_classes` [M] -> those that count, with masks, rescored.

        add_masks: detections -> the same with `pred_masks` [m, 1, S, S]. rescorer: None ranks masks by `scores`.
        """
        limit = self.per_image or self.per_class or 0
        groups = found.pred_classes if self.per_class else torch.zeros_like(found.pred_classes)
        solid = surely_have_area(found.pred_boxes.tensor, found.image_size)
        order = found.scores.argsort(descending=True, stable=True)
        early = torch.zeros_like(solid)  # among the first k of their group by s
        early[order] = rank_in_class(groups[order], solid[order]) < limit
        masks = _Masks(found, add_masks, rescorer)
        for rows in order[early[order]].split(self.rows_at_once):
            masks.add(rows)
        later = order[~early[order]]
        while True:
            bar = masks.kth_best(limit, groups, solid) * (1 - ROUNDING)
            later = later[found.scores[later] >= bar[groups[later]]]
            if not len(later):
                break
            masks.add(later[: self.rows_at_once])
            later = later[self.rows_at_once :]
        counts = masks.known & (masks.ranked_by >= bar[groups])
        if rescorer is None or not rescorer.changes_scores:
            counts |= early  # boxes are still ranked by s
        chosen = masks.of(counts.nonzero().squeeze(1))
        return chosen if rescorer is None else rescorer(chosen)


class _Masks:
    """The masks computed so far of one image's detections."""

    def __init__(self, found: Instances, add_masks: AddMasks, rescorer: MaskRescorer | None) -> None:
        self._found, self._add_masks, self._rescorer = found, add_masks, rescorer
        self.known = torch.zeros_like(found.scores, dtype=torch.bool)
        self.ranked_by = torch.zeros_like(found.scores)  # [M] the score after rescoring
        self._rows: list[Tensor] = []
        self._masks: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        """Compute the masks of these detections."""
        part = self._add_masks(self._found[rows])
        self.ranked_by[rows] = part.scores if self._rescorer is None else self._rescorer.calibrated(part)
        self.known[rows] = True
        self._rows.append(rows)
        self._masks.append(part.pred_masks)

    def kth_best(self, limit: int, groups: Tensor, solid: Tensor) -> Tensor:
        """The `limit`-th largest score of each group among known masks of solid boxes, 0 where there are fewer. -> [G]."""
        rows = (self.known & solid).nonzero().squeeze(1)
        rows = rows[self.ranked_by[rows].argsort(descending=True, stable=True)]
        rows = rows[rank_in_class(groups[rows]) == limit - 1]
        best = self.ranked_by.new_zeros(int(groups.max()) + 1 if len(groups) else 0)
        best[groups[rows]] = self.ranked_by[rows]
        return best

    def of(self, rows: Tensor) -> Instances:
        """These detections, whose masks are known, with them."""
        place = torch.zeros_like(self.known, dtype=torch.long)
        computed = torch.cat(self._rows)
        place[computed] = torch.arange(len(computed), device=place.device)
        chosen = self._found[rows]
        chosen.pred_masks = torch.cat(self._masks)[place[rows]]
        return chosen
