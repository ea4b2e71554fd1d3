"""Cascade heads: the same as detectron2's where nothing is asked of them, and what the two choices change."""

import copy

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import Tensor

from configs.common.models import HeadSizes, cascade_mask_rcnn, trv
from eva02_det.modeling.cascade_heads import Eva02CascadeROIHeads
from eva02_det.modeling.mask_budget import MaskBudget
from eva02_det.modeling.rescorers import Maskness
from eva02_det.modeling.selectors import HardNms, SoftNms
from eva02_det.utils.errors import UserError

SIZES = ((64, 96), (96, 80))


def small_heads(mask_budget: DictConfig | None = None, **options: object) -> DictConfig:
    tree = cascade_mask_rcnn(trv("Ti"), num_classes=3, channels=8, heads=HeadSizes(1, 16, 1), **options).roi_heads
    tree.mask_budget = mask_budget
    for predictor in tree.box_predictors:
        predictor.test_score_thresh = 0.2
    return tree


def build(tree: DictConfig, like: torch.nn.Module | None = None) -> Eva02CascadeROIHeads:
    torch.manual_seed(0)
    heads = instantiate(tree)
    if like is not None:
        heads.load_state_dict(like.state_dict())
    return heads.eval()


@pytest.fixture
def features() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sides = {"p2": 24, "p3": 12, "p4": 6, "p5": 3}
    return {name: torch.randn(2, 8, side, side, generator=generator) * 3 for name, side in sides.items()}


@pytest.fixture
def proposals() -> list[Instances]:
    generator = torch.Generator().manual_seed(2)
    given = []
    for size in SIZES:
        corner = torch.rand(12, 2, generator=generator) * 40
        boxes = torch.cat([corner, corner + 10 + torch.rand(12, 2, generator=generator) * 30], 1)
        given.append(Instances(size, proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(12)))
    return given


def targets() -> list[Instances]:
    found = []
    for size in SIZES:
        mask = torch.zeros(1, *size, dtype=torch.bool)
        mask[:, 5:30, 8:40] = True
        box = Boxes(torch.tensor([[8.0, 5, 40, 30]]))
        found.append(Instances(size, gt_boxes=box, gt_classes=torch.tensor([1]), gt_masks=BitMasks(mask)))
    return found


def detect(heads: CascadeROIHeads, features: dict[str, Tensor], proposals: list[Instances]) -> list[Instances]:
    with torch.no_grad():
        return heads(None, features, proposals, None)[0]


def parent_of(tree: DictConfig) -> DictConfig:
    """The same heads as detectron2 builds them."""
    parent = copy.deepcopy(tree)
    parent["_target_"] = CascadeROIHeads
    for choice in ("select_boxes", "rescore_masks", "mask_budget"):
        parent.pop(choice, None)
    return parent


@pytest.mark.parametrize("select", [None, L(HardNms)(score_threshold=0.2)])
def test_hard_nms_in_either_form_gives_what_the_parent_gives(
    select: DictConfig | None, features: dict[str, Tensor], proposals: list[Instances]
) -> None:
    ours = build(small_heads(select_boxes=select))
    theirs = build(parent_of(small_heads()), like=ours)
    for mine, other in zip(detect(ours, features, proposals), detect(theirs, features, proposals)):
        assert len(mine) == len(other) > 0
        torch.testing.assert_close(mine.scores, other.scores)
        torch.testing.assert_close(mine.pred_boxes.tensor, other.pred_boxes.tensor)
        torch.testing.assert_close(mine.pred_masks, other.pred_masks)


def test_training_is_that_of_the_parent(features: dict[str, Tensor], proposals: list[Instances]) -> None:
    ours = build(small_heads(select_boxes=L(SoftNms)(), rescore_masks=L(Maskness)()))
    losses = []
    for heads in (ours, build(parent_of(small_heads()), like=ours)):
        torch.manual_seed(5)
        with EventStorage(0):
            losses.append(heads.train()(None, features, copy.deepcopy(proposals), targets())[1])
    assert losses[0].keys() == losses[1].keys() >= {"loss_mask", "loss_cls_stage2"}
    for name, loss in losses[0].items():
        torch.testing.assert_close(loss, losses[1][name])


def test_the_selector_sees_stage_averaged_probabilities(features: dict[str, Tensor], proposals: list[Instances]) -> None:
    seen = []

    def everything(boxes: Tensor, scores: Tensor, image_size: tuple[int, int]) -> tuple[Instances, Tensor]:
        seen.append((boxes, scores, image_size))
        return SoftNms()(boxes, scores, image_size)

    heads = build(small_heads())
    heads.select_boxes = everything
    outputs: list[Tensor] = []
    for predictor in heads.box_predictor:
        predictor.register_forward_hook(lambda _module, _inputs, output: outputs.append(output[0].softmax(1)))
    detect(heads, features, proposals)
    torch.testing.assert_close(torch.cat([scores for _, scores, _ in seen]), torch.stack(outputs).mean(0))
    assert [(tuple(boxes.shape), size) for boxes, _, size in seen] == [((12, 4), size) for size in SIZES]


def test_soft_nms_lets_more_detections_through_in_order(features: dict[str, Tensor], proposals: list[Instances]) -> None:
    heads = build(small_heads(select_boxes=L(SoftNms)()))
    hard = build(small_heads(), like=heads)
    for soft, few in zip(detect(heads, features, proposals), detect(hard, features, proposals)):
        assert len(soft) > len(few)
        assert soft.pred_masks.shape == (len(soft), 1, 28, 28)
        assert (soft.scores.diff() <= 0).all()


def test_mask_scores_appear_with_a_rescorer_only(features: dict[str, Tensor], proposals: list[Instances]) -> None:
    plain = build(small_heads(select_boxes=L(SoftNms)()))
    rescoring = build(small_heads(select_boxes=L(SoftNms)(), rescore_masks=L(Maskness)()), like=plain)
    for without, having in zip(detect(plain, features, proposals), detect(rescoring, features, proposals)):
        assert not without.has("mask_scores")
        assert torch.equal(without.scores, having.scores)
        assert torch.equal(having.mask_scores, Maskness()(without).mask_scores)


def test_given_boxes_get_masks_and_calibration_where_they_have_scores(features: dict[str, Tensor]) -> None:
    heads = build(small_heads(rescore_masks=L(Maskness)()))
    boxes, classes = Boxes(torch.tensor([[5.0, 5, 40, 40], [20, 10, 60, 50]])), torch.tensor([0, 2])
    scored = Instances(SIZES[0], pred_boxes=boxes, pred_classes=classes, scores=torch.tensor([0.9, 0.4]))
    bare = Instances(SIZES[1], pred_boxes=boxes, pred_classes=classes)
    with torch.no_grad():
        first, second = heads.forward_with_given_boxes(features, [scored, bare])
    assert torch.equal(first.mask_scores, Maskness()(first).mask_scores)
    assert second.has("pred_masks")
    assert not second.has("mask_scores")


@pytest.mark.parametrize("budget", [L(MaskBudget)(per_image=6, rows_at_once=4), L(MaskBudget)(per_class=4)])
@pytest.mark.parametrize("applies_to", ["masks", "boxes_and_masks"])
def test_a_mask_budget_leaves_out_detections_and_changes_no_other(
    budget: DictConfig, applies_to: str, features: dict[str, Tensor], proposals: list[Instances]
) -> None:
    options = {"select_boxes": L(SoftNms)(), "rescore_masks": L(Maskness)(applies_to=applies_to)}
    plain = build(small_heads(**options))
    limited = build(small_heads(mask_budget=budget, **options), like=plain)
    for few, many in zip(detect(limited, features, proposals), detect(plain, features, proposals)):
        assert 0 < len(few) < len(many)
        row_of = {identity: row for row, identity in enumerate(identities(many))}
        same = many[[row_of[identity] for identity in identities(few)]]
        for field in ("scores", "mask_scores", "pred_masks"):
            torch.testing.assert_close(few.get(field), same.get(field))


def identities(found: Instances) -> list[tuple[float, ...]]:
    """Class and box of each detection."""
    return [(label, *box) for label, box in zip(found.pred_classes.tolist(), found.pred_boxes.tensor.tolist())]


def test_boxes_handed_in_from_outside_all_get_masks_whatever_the_budget(features: dict[str, Tensor]) -> None:
    heads = build(small_heads(mask_budget=L(MaskBudget)(per_image=1)))
    boxes = Boxes(torch.tensor([[5.0, 5, 40, 40], [20, 10, 60, 50]]))
    given = Instances(SIZES[0], pred_boxes=boxes, pred_classes=torch.tensor([0, 2]), scores=torch.tensor([0.1, 0.9]))
    with torch.no_grad():
        found = heads.forward_with_given_boxes({name: level[:1] for name, level in features.items()}, [given])[0]
    assert found.scores.tolist() == given.scores.tolist()
    assert len(found.pred_masks) == 2


def test_a_mask_budget_without_mask_head_is_refused_when_the_model_is_built() -> None:
    with pytest.raises(UserError, match="no mask head"):
        build(small_heads(masks=False, mask_budget=L(MaskBudget)(per_class=3)))


def test_an_image_without_proposals_gives_no_detections(features: dict[str, Tensor], proposals: list[Instances]) -> None:
    heads = build(small_heads(select_boxes=L(SoftNms)(), rescore_masks=L(Maskness)(applies_to="boxes_and_masks")))
    found = detect(heads, features, [proposals[0][:0], proposals[1][:0]])
    assert [len(image) for image in found] == [0, 0]


def test_a_rescorer_without_mask_head_is_refused_when_the_model_is_built() -> None:
    with pytest.raises(UserError, match="no mask head"):
        build(small_heads(masks=False, rescore_masks=L(Maskness)()))
