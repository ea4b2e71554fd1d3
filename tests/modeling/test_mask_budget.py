"""A mask budget: the lists that an evaluation ranks are the same as when every detection gets a mask."""

import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor

from eva02_det.modeling.mask_budget import MaskBudget
from eva02_det.modeling.rescorers import Maskness
from eva02_det.utils.errors import UserError

SIZE = (60, 80)
SIDE = 6  # of a mask
RESCORERS = [None, Maskness(), Maskness(applies_to="boxes_and_masks")]


def scene(seed: int, rows: int = 400, classes: int = 4) -> tuple[Instances, Tensor]:
    """Detections in order of score, with ties, and their masks: one in eight is empty, one in eight of no area."""
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(rows, 2, generator=draw) * 40
    size = torch.rand(rows, 2, generator=draw) * 20 + 1
    size[torch.rand(rows, generator=draw) < 1 / 8, 0] = 0
    scores = torch.rand(rows, generator=draw).pow(2).mul(200).round().div(200).sort(descending=True).values
    found = Instances(SIZE, pred_boxes=Boxes(torch.cat([corner, corner + size], 1)), scores=scores)
    found.pred_classes = torch.randint(0, classes, (rows,), generator=draw).clamp(max=int(draw.initial_seed()) % classes)
    found.row = torch.arange(rows)
    inside = 0.5 + 0.5 * torch.rand(rows, 1, 1, 1, generator=draw)
    inside[torch.rand(rows, generator=draw) < 1 / 8] = 0.4
    return found, inside.expand(rows, 1, SIDE, SIDE)


class MaskHead:
    """Looks masks up and counts how many were asked for."""

    def __init__(self, masks: Tensor) -> None:
        self.masks, self.asked = masks, []

    def __call__(self, part: Instances) -> Instances:
        self.asked += part.row.tolist()
        with_masks = Instances(part.image_size, **part.get_fields())
        with_masks.pred_masks = self.masks[part.row]
        return with_masks


def everything(found: Instances, masks: Tensor, rescorer: Maskness | None) -> Instances:
    """What the heads return without a budget."""
    complete = MaskHead(masks)(found)
    return complete if rescorer is None else rescorer(complete)


def counted(found: Instances, field: str, limit: int, *, by_class: bool, output: tuple[int, int]) -> dict[int, list[int]]:
    """The list of an evaluation: rows that survive postprocessing by a field (ties in order), the first `limit` of a group."""
    final = Instances(found.image_size, **{name: value for name, value in found.get_fields().items() if name != "pred_masks"})
    final.pred_boxes = final.pred_boxes.clone()  # postprocessing may scale them in place
    final = detector_postprocess(final, *output)
    field = field if final.has(field) else "scores"
    lists: dict[int, list[int]] = {}
    for position in final.get(field).argsort(descending=True, stable=True).tolist():
        group = int(final.pred_classes[position]) if by_class else 0
        lists.setdefault(group, []).append(int(final.row[position]))
    return {group: rows[:limit] for group, rows in lists.items()}


@pytest.mark.parametrize("rescorer", RESCORERS, ids=repr)
@pytest.mark.parametrize(
    "budget", [MaskBudget(per_image=50), MaskBudget(per_class=30), MaskBudget(per_class=9, rows_at_once=7)], ids=repr
)
@pytest.mark.parametrize("seed", range(6))
def test_box_and_mask_lists_of_an_evaluation_are_the_same_as_without_a_budget(
    seed: int, budget: MaskBudget, rescorer: Maskness | None
) -> None:
    found, masks = scene(seed)
    limit, by_class = budget.per_image or budget.per_class, budget.per_class is not None
    chosen = budget(found, MaskHead(masks), rescorer)
    whole = everything(found, masks, rescorer)
    assert len(chosen) < len(whole)
    for field in ("scores", "mask_scores"):
        for output in (SIZE, (23, 31), (1200, 1600)):
            expected = counted(whole, field, limit, by_class=by_class, output=output)
            assert counted(chosen, field, limit, by_class=by_class, output=output) == expected


@pytest.mark.parametrize("rescorer", RESCORERS, ids=repr)
def test_what_is_returned_is_unchanged_and_in_the_same_order(rescorer: Maskness | None) -> None:
    found, masks = scene(1)
    whole = everything(found, masks, rescorer)
    chosen = MaskBudget(per_image=60)(found, MaskHead(masks), rescorer)
    place = {row: position for position, row in enumerate(whole.row.tolist())}
    positions = [place[row] for row in chosen.row.tolist()]
    assert positions == sorted(positions)
    for name, value in whole[positions].get_fields().items():
        mine = chosen.get(name)
        assert torch.equal(mine.tensor if isinstance(mine, Boxes) else mine, value.tensor if isinstance(value, Boxes) else value)


@pytest.mark.parametrize("budget", [MaskBudget(per_image=40, rows_at_once=1), MaskBudget(per_class=10, rows_at_once=1)], ids=repr)
@pytest.mark.parametrize("seed", range(4))
def test_no_more_masks_are_computed_than_the_rule_of_the_specification_asks_for(seed: int, budget: MaskBudget) -> None:
    found, masks = scene(seed)
    head = MaskHead(masks)
    budget(found, head, Maskness())
    allowed = 0
    groups = found.pred_classes if budget.per_class else torch.zeros_like(found.pred_classes)
    for group in groups.unique():
        mine = groups == group
        full = (masks[:, 0, 0, 0] > 0.5) & found.pred_boxes.nonempty() & mine
        ranked = found.scores[full]
        limit = budget.per_image or budget.per_class
        bar = 0.5 * ranked[limit - 1] if len(ranked) >= limit else 0
        allowed += int((found.scores[mine] >= bar).sum())
    assert len(head.asked) == len(set(head.asked)) <= allowed < len(found)


def test_empty_masks_do_not_stop_the_search() -> None:
    found, masks = scene(2, rows=100, classes=1)
    found.pred_boxes = Boxes(torch.tensor([0.0, 0, 9, 9]).repeat(100, 1))
    found.scores = torch.linspace(1, 0.1, 100)
    masks = masks.clone()
    masks[:95], masks[95:] = 0.3, 0.9
    chosen = MaskBudget(per_image=5, rows_at_once=10)(found, MaskHead(masks), Maskness(applies_to="boxes_and_masks"))
    assert chosen.row.tolist()[:5] == [95, 96, 97, 98, 99]


def test_with_certain_masks_the_search_ends_at_the_budget() -> None:
    found, _ = scene(3)
    found.scores = torch.linspace(1, 0.01, len(found))
    found.pred_boxes = Boxes(torch.tensor([0.0, 0, 9, 9]).repeat(len(found), 1))
    head = MaskHead(torch.ones(len(found), 1, SIDE, SIDE))
    chosen = MaskBudget(per_image=50)(found, head, Maskness())
    assert head.asked == chosen.row.tolist() == list(range(50))


@pytest.mark.parametrize("budget", [MaskBudget(per_image=5), MaskBudget(per_class=5)], ids=repr)
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_few_detections_all_keep_their_masks(rows: int, budget: MaskBudget) -> None:
    found, masks = scene(4, rows=rows)
    chosen = budget(found, MaskHead(masks), Maskness())
    assert chosen.row.tolist() == list(range(rows))
    assert chosen.pred_masks.shape == (rows, 1, SIDE, SIDE)


@pytest.mark.parametrize(
    "limits", [{}, {"per_image": 3, "per_class": 3}, {"per_class": 0}, {"per_image": 3, "rows_at_once": 0}], ids=repr
)
def test_a_budget_that_means_nothing_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(UserError, match="MaskBudget"):
        MaskBudget(**limits)
