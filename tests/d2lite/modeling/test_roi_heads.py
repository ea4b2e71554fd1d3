"""Box and mask heads: sampling, losses, cascade stages and inference."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNConvFCHead, FastRCNNOutputLayers, MaskRCNNConvUpsampleHead
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference, mask_rcnn_loss
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from torch import Tensor

from tests.d2lite.modeling.small import (
    CHANNELS,
    CLASSES,
    box_head,
    cascade,
    equal_weights,
    mask_options,
    objects,
    predictor,
    proposals_around,
    sampling,
    standard,
)

SIZES = [(48, 64), (64, 40)]


def maps() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"p{k}": torch.randn(2, CHANNELS, 64 >> k, 64 >> k, generator=generator) for k in range(2, 6)}


def truths(counts: tuple[int, int] = (4, 3), bitmaps: bool = False) -> list[Instances]:
    return [objects(count, size, bitmaps) for count, size in zip(counts, SIZES)]


def run(heads: torch.nn.Module, targets: list[Instances]) -> tuple[list[Instances], dict[str, Tensor], dict[str, float]]:
    """Sampled proposals, losses and logged numbers of a training step."""
    torch.manual_seed(0)
    with EventStorage() as storage:
        sampled, losses = heads(None, maps(), [proposals_around(truth) for truth in targets], targets)
    return sampled, losses, {name: value for name, (value, _) in storage.latest().items()}


# sampling


def test_samples_carry_the_class_and_fields_of_their_match():
    heads, targets = standard(), truths()
    with EventStorage():
        sampled = heads.label_and_sample_proposals([proposals_around(truth) for truth in targets], targets)
    for image, truth in zip(sampled, targets):
        assert len(image) == 16
        foreground = image.gt_classes < CLASSES
        assert 0 < foreground.sum() <= 4
        best, match = pairwise_iou(truth.gt_boxes, image.proposal_boxes).max(dim=0)
        assert torch.equal(foreground, best >= 0.5)
        assert torch.equal(image.gt_classes[foreground], truth.gt_classes[match[foreground]])
        assert torch.equal(image.gt_boxes.tensor, truth.gt_boxes.tensor[match])
        assert len(image.gt_masks) == 16
        assert not image.proposal_boxes.tensor.requires_grad


def test_foreground_samples_come_first():
    sampled, _, logged = run(standard(), truths())
    labels = [(image.gt_classes == CLASSES).int() for image in sampled]
    assert all(torch.equal(of_image, of_image.sort().values) for of_image in labels)
    assert logged["roi_head/num_bg_samples"] == sum(int(of_image.sum()) for of_image in labels) / 2
    assert logged["roi_head/num_fg_samples"] + logged["roi_head/num_bg_samples"] == 16


def test_ground_truth_boxes_are_among_the_candidates():
    far = Instances(SIZES[0], proposal_boxes=Boxes([[60, 40, 63, 45]]), objectness_logits=torch.zeros(1))
    targets = truths()[:1]
    with EventStorage():
        [sampled] = standard().label_and_sample_proposals([far], targets)
        [without] = standard(proposal_append_gt=False).label_and_sample_proposals([far], targets)
    assert (sampled.gt_classes < CLASSES).sum() == 4
    assert without.gt_classes.tolist() == [CLASSES]


def test_an_image_without_objects_gives_background_samples():
    sampled, _, _ = run(standard(), truths((0, 3)))
    assert (sampled[0].gt_classes == CLASSES).all()
    assert not sampled[0].has("gt_boxes")
    assert len(sampled[0]) == 16


# box head and output layers


def test_the_box_head_has_the_published_names_and_shape():
    head = box_head()
    assert set(head.state_dict()) == {"conv1.weight", "conv1.norm.weight", "conv1.norm.bias", "fc1.weight", "fc1.bias"}
    assert head.output_shape.channels == 12
    assert head(torch.randn(3, CHANNELS, 7, 7)).shape == (3, 12)
    assert head(torch.randn(0, CHANNELS, 7, 7)).shape == (0, 12)


def test_a_box_head_without_linear_layers_keeps_its_maps():
    head = FastRCNNConvFCHead(ShapeSpec(channels=4, height=7, width=7), conv_dims=[6], fc_dims=[])
    assert head.output_shape == ShapeSpec(channels=6, height=7, width=7)
    assert head(torch.randn(2, 4, 7, 7)).shape == (2, 6, 7, 7)


def test_output_layers_regress_once_or_for_each_class():
    assert predictor().bbox_pred.weight.shape == (4, 12)
    assert predictor(cls_agnostic_bbox_reg=False).bbox_pred.weight.shape == (4 * CLASSES, 12)
    assert predictor().cls_score.weight.shape == (CLASSES + 1, 12)


def labelled(classes: list[int]) -> Instances:
    """Regions with those labels; the ground truth of each lies 2 pixels to the right."""
    generator = torch.Generator().manual_seed(len(classes))
    corner = torch.rand(len(classes), 2, generator=generator) * 20
    boxes = torch.cat((corner, corner + 10), dim=1)
    found = Instances((64, 64), proposal_boxes=Boxes(boxes), gt_classes=torch.tensor(classes, dtype=torch.int64))
    found.gt_boxes = Boxes(boxes + torch.tensor([2.0, 0.0, 2.0, 0.0]))
    return found


def losses_of(layers: FastRCNNOutputLayers, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict:
    with EventStorage() as storage:
        losses = layers.losses(predictions, proposals)
    return {**losses, **{name: value for name, (value, _) in storage.latest().items()}}


def test_box_loss_is_the_l1_distance_of_foreground_offsets_over_all_regions():
    proposals = [labelled([1, CLASSES, 3]), labelled([CLASSES])]
    predictions = (torch.zeros(4, CLASSES + 1), torch.zeros(4, 4))
    losses = losses_of(predictor(), predictions, proposals)
    # dx = 10 * 2 / 10 for two foreground regions of four
    assert losses["loss_box_reg"].item() == pytest.approx(2 * 2.0 / 4)
    assert losses["loss_cls"].item() == pytest.approx(math.log(CLASSES + 1))


def test_box_loss_uses_the_offsets_of_the_labelled_class():
    deltas = torch.full((1, CLASSES, 4), 100.0)
    deltas[0, 3] = torch.tensor([2.0, 0.0, 0.0, 0.0])
    layers = predictor(cls_agnostic_bbox_reg=False)
    losses = losses_of(layers, (torch.zeros(1, CLASSES + 1), deltas.flatten(1)), [labelled([3])])
    assert losses["loss_box_reg"].item() == pytest.approx(0, abs=1e-5)


def test_accuracies_are_logged():
    logits = torch.full((4, CLASSES + 1), -5.0)
    logits[[0, 1, 2, 3], [1, CLASSES, CLASSES, 2]] = 5.0  # right, missed, right, wrong class
    logged = losses_of(predictor(), (logits, torch.zeros(4, 4)), [labelled([1, 3, CLASSES, 4])])
    assert logged["fast_rcnn/cls_accuracy"] == pytest.approx(0.5)
    assert logged["fast_rcnn/fg_cls_accuracy"] == pytest.approx(1 / 3)
    assert logged["fast_rcnn/false_negative"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("options", [{}, {"use_sigmoid_ce": True}, {"use_sigmoid_ce": True, "use_fed_loss": True}])
def test_no_regions_give_a_loss_of_zero(options):
    logits, deltas = torch.zeros(0, CLASSES + 1, requires_grad=True), torch.zeros(0, 4, requires_grad=True)
    for proposals in ([], [labelled([])]):
        losses = losses_of(predictor(**options), (logits, deltas), proposals)
        assert losses["loss_cls"].item() == losses["loss_box_reg"].item() == 0


def test_sigmoid_loss_is_summed_over_classes_and_ignores_the_background_logit():
    logits = torch.randn(6, CLASSES + 1, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 4, CLASSES, CLASSES, 2])
    layers = predictor(use_sigmoid_ce=True)
    wanted = F.one_hot(labels, CLASSES + 1)[:, :-1].float()
    expected = F.binary_cross_entropy_with_logits(logits[:, :-1], wanted, reduction="sum") / 6
    torch.testing.assert_close(layers.sigmoid_cross_entropy_loss(logits, labels), expected)
    logits[:, -1] += 100
    torch.testing.assert_close(layers.sigmoid_cross_entropy_loss(logits, labels), expected)


def test_federated_loss_leaves_undrawn_classes_without_gradient():
    layers = predictor(num_classes=40, use_sigmoid_ce=True, use_fed_loss=True, fed_loss_num_classes=8)
    logits = torch.zeros(5, 41, requires_grad=True)
    layers.sigmoid_cross_entropy_loss(logits, torch.tensor([3, 3, 17, 40, 40])).backward()
    touched = logits.grad.abs().sum(dim=0).nonzero().flatten().tolist()
    assert len(touched) == 7  # the background takes one of the eight places
    assert {3, 17} <= set(touched)


def test_classes_without_weight_are_never_drawn():
    layers = predictor(num_classes=10, use_sigmoid_ce=True, use_fed_loss=True, fed_loss_num_classes=4)
    weight = torch.zeros(10)
    weight[[2, 5, 7]] = 1.0
    drawn = layers.get_fed_loss_classes(torch.tensor([7, 7]), 3, 10, weight)
    assert sorted(drawn.tolist()) == [2, 5, 7]


def test_federated_loss_needs_sigmoid_and_weights_for_every_class():
    box = {"box2box_transform": Box2BoxTransform((1.0, 1.0, 1.0, 1.0)), "num_classes": 3}
    with pytest.raises(AssertionError):
        FastRCNNOutputLayers(4, use_fed_loss=True, use_sigmoid_ce=False, get_fed_loss_cls_weights=lambda: equal_weights(3), **box)
    with pytest.raises(AssertionError):
        FastRCNNOutputLayers(4, use_fed_loss=True, use_sigmoid_ce=True, get_fed_loss_cls_weights=lambda: equal_weights(4), **box)


def test_class_weights_are_saved_with_the_model():
    layers = predictor(use_sigmoid_ce=True, use_fed_loss=True)
    assert "fed_loss_cls_weights" in layers.state_dict()
    assert "fed_loss_cls_weights" not in predictor(use_sigmoid_ce=True).state_dict()


def test_probabilities_and_boxes_are_split_by_image():
    proposals = [labelled([0, 1, 2]), labelled([]), labelled([3])]
    predictions = (torch.randn(4, CLASSES + 1), torch.zeros(4, 4))
    probs = predictor().predict_probs(predictions, proposals)
    assert [len(image) for image in probs] == [3, 0, 1]
    torch.testing.assert_close(probs[0].sum(dim=1), torch.ones(3))
    single = predictor(use_sigmoid_ce=True).predict_probs(predictions, proposals)
    torch.testing.assert_close(torch.cat(single), predictions[0].sigmoid())
    boxes = predictor().predict_boxes(predictions, proposals)
    torch.testing.assert_close(boxes[2], proposals[2].proposal_boxes.tensor)


# inference


def infer(boxes: Tensor, scores: Tensor, threshold: float = 0.1, topk: int = 100) -> tuple[Instances, list[int]]:
    [found], [rows] = fast_rcnn_inference([boxes], [scores], [(50, 50)], threshold, 0.5, topk)
    return found, rows.tolist()


REGIONS = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [30.0, 30.0, 90.0, 90.0]])
SCORES = torch.tensor([[0.6, 0.1, 0.3], [0.8, 0.15, 0.05], [0.2, 0.7, 0.1]])


def test_detections_pass_the_threshold_and_nms_within_their_class():
    found, rows = infer(REGIONS, SCORES)
    assert found.scores.tolist() == pytest.approx([0.8, 0.7, 0.2, 0.15])  # 0.1 is not above 0.1, 0.6 is suppressed
    assert found.pred_classes.tolist() == [0, 1, 0, 1]
    assert rows == [1, 2, 2, 1]
    assert found.pred_boxes.tensor[1].tolist() == [30, 30, 50, 50]


def test_only_the_best_detections_remain():
    found, rows = infer(REGIONS, SCORES, topk=2)
    assert found.scores.tolist() == pytest.approx([0.8, 0.7])
    assert rows == [1, 2]
    assert len(infer(REGIONS, SCORES, topk=-1)[0]) == 4


def test_each_class_may_have_its_own_box():
    boxes = torch.cat((REGIONS, REGIONS + 5), dim=1)
    found, _ = infer(boxes, SCORES, threshold=0.65)
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 10, 9], [35, 35, 50, 50]]


def test_rows_that_are_not_finite_are_dropped():
    broken = REGIONS.clone()
    broken[1, 2] = float("inf")
    found, rows = infer(broken, SCORES, threshold=0.5)
    assert found.scores.tolist() == pytest.approx([0.7, 0.6])
    assert rows == [1, 0]


def test_nothing_found_is_an_empty_record():
    for boxes, scores in ((REGIONS[:0], SCORES[:0]), (REGIONS, SCORES * 0)):
        found, rows = infer(boxes, scores)
        assert len(found) == 0
        assert rows == []
        assert found.pred_boxes.tensor.shape == (0, 4)


# masks


def test_the_mask_head_has_the_published_names_and_doubles_the_size():
    shape = ShapeSpec(channels=4, height=14, width=14)
    head = MaskRCNNConvUpsampleHead(shape, num_classes=3, conv_dims=[6, 6, 5], conv_norm="LN")
    names = {name.rsplit(".", 1)[0] for name in head.state_dict()}
    assert names == {"mask_fcn1", "mask_fcn1.norm", "mask_fcn2", "mask_fcn2.norm", "deconv", "predictor"}
    assert head.layers(torch.randn(2, 4, 14, 14)).shape == (2, 3, 28, 28)


def mask_case() -> tuple[Tensor, Instances]:
    """Logits of three regions that are their own ground truth, whose masks fill the boxes."""
    truth = objects(3)
    image = Instances(truth.image_size, proposal_boxes=truth.gt_boxes, gt_classes=truth.gt_classes, gt_masks=truth.gt_masks)
    return torch.full((3, CLASSES, 28, 28), 0.0), image


def test_mask_loss_looks_at_the_labelled_class_only():
    logits, image = mask_case()
    with EventStorage() as storage:
        assert mask_rcnn_loss(logits, [image]).item() == pytest.approx(math.log(2))
        for row, label in enumerate(image.gt_classes.tolist()):
            logits[row, label] = 20.0
        assert mask_rcnn_loss(logits, [image]).item() < 0.5
        logged = {name: value for name, (value, _) in storage.latest().items()}
    assert logged["mask_rcnn/accuracy"] > 0.95
    assert logged["mask_rcnn/false_negative"] == 0
    assert set(logged) == {"mask_rcnn/accuracy", "mask_rcnn/false_positive", "mask_rcnn/false_negative"}


def test_mask_loss_of_no_regions_is_a_differentiable_zero():
    logits, image = mask_case()
    logits = logits[:0].requires_grad_()
    with EventStorage():
        loss = mask_rcnn_loss(logits, [image[torch.zeros(3, dtype=torch.bool)]])
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("channels", [1, CLASSES])
def test_mask_probabilities_are_those_of_the_predicted_class(channels):
    logits = torch.randn(5, channels, 28, 28)
    classes = torch.tensor([0, 4, 2, 2, 1])
    images = [Instances((9, 9), pred_classes=part) for part in classes.split([3, 0, 2])]
    mask_rcnn_inference(logits, images)
    assert [tuple(image.pred_masks.shape) for image in images] == [(n, 1, 28, 28) for n in (3, 0, 2)]
    expected = logits[torch.arange(5), classes.clamp(max=channels - 1)].sigmoid()
    torch.testing.assert_close(torch.cat([image.pred_masks[:, 0] for image in images]), expected)


# whole heads


@pytest.mark.parametrize("bitmaps", [False, True])
def test_a_cascade_has_losses_for_every_stage_and_one_for_masks(bitmaps):
    heads = cascade()
    _, losses, logged = run(heads, truths(bitmaps=bitmaps))
    assert set(losses) == {f"loss_{kind}_stage{k}" for kind in ("cls", "box_reg") for k in range(3)} | {"loss_mask"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in heads.parameters())
    assert {"stage1/roi_head/num_fg_samples", "stage2/fast_rcnn/cls_accuracy"} <= set(logged)


@pytest.mark.parametrize("counts", [(0, 3), (0, 0)])
def test_images_without_objects_do_not_break_a_cascade(counts):
    heads = cascade()
    _, losses, _ = run(heads, truths(counts))
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    if not any(counts):
        assert losses["loss_mask"].item() == losses["loss_box_reg_stage2"].item() == 0


def test_later_stages_are_labelled_by_their_own_matcher():
    heads, truth = cascade(), objects(4)
    known = proposals_around(truth)
    overlaps = pairwise_iou(truth.gt_boxes, known.proposal_boxes).max(dim=0).values
    for stage, limit in enumerate((0.5, 0.6, 0.7)):
        with EventStorage():
            [image] = heads._match_and_label_boxes([known], stage, [truth])
        assert torch.equal(image.gt_classes < CLASSES, overlaps >= limit)
        assert len(image.gt_boxes) == len(known)


def test_boxes_of_a_stage_are_clipped_and_detached_and_empty_ones_leave_training():
    heads = cascade()
    boxes = [torch.tensor([[-5.0, 0.0, 9.0, 9.0], [70.0, 5.0, 90.0, 9.0]], requires_grad=True)]
    [training] = heads._create_proposals_from_boxes(boxes, [(48, 64)])
    [testing] = heads.eval()._create_proposals_from_boxes(boxes, [(48, 64)])
    assert training.proposal_boxes.tensor.tolist() == [[0, 0, 9, 9]]
    assert len(testing) == 2
    assert not training.proposal_boxes.tensor.requires_grad


def test_each_stage_passes_a_third_of_its_gradient_to_the_features():
    heads = cascade(masks=False)
    known = [proposals_around(truth) for truth in truths()]
    levels = [level.requires_grad_() for level in maps().values()]
    pooled = heads.box_pooler(levels, [image.proposal_boxes for image in known])
    torch.cat(heads.box_predictor[1](heads.box_head[1](pooled)), dim=1).sum().backward()
    whole = [level.grad.clone() for level in levels]
    for level in levels:
        level.grad = None
    torch.cat(heads._run_stage(levels, known, 1), dim=1).sum().backward()
    for level, gradient in zip(levels, whole):
        torch.testing.assert_close(level.grad, gradient / 3)


def test_cascade_scores_are_averaged_and_boxes_come_from_the_last_stage():
    heads = cascade(masks=False, test_nms_thresh=1.0, test_score_thresh=-1.0, test_topk_per_image=1000).eval()
    for layers in heads.box_predictor:
        torch.nn.init.normal_(layers.cls_score.weight)
    known = [proposals_around(truth) for truth in truths()]
    with torch.no_grad():
        found, _ = heads(None, maps(), known)
        probs, rows = [], known
        for stage, layers in enumerate(heads.box_predictor):
            outputs = heads._run_stage(list(maps().values()), rows, stage)
            probs.append(layers.predict_probs(outputs, rows)[0])
            boxes = layers.predict_boxes(outputs, rows)
            rows = heads._create_proposals_from_boxes(boxes, SIZES)
    expected = torch.stack(probs).mean(dim=0)[:, :-1]
    torch.testing.assert_close(found[0].scores, expected.flatten().sort(descending=True).values)
    best = int(expected.max(dim=1).values.argmax())
    torch.testing.assert_close(found[0].pred_boxes.tensor[0], rows[0].proposal_boxes.tensor[best])


def test_detections_carry_masks_only_with_a_mask_head():
    known = [proposals_around(truth) for truth in truths()]
    with torch.no_grad():
        with_masks, losses = cascade().eval()(None, maps(), known)
        without, _ = cascade(masks=False).eval()(None, maps(), known)
    assert losses == {}
    assert with_masks[0].pred_masks.shape[1:] == (1, 28, 28)
    assert not without[0].has("pred_masks")


def test_no_proposals_give_no_detections():
    known = [Instances(size, proposal_boxes=Boxes([]), objectness_logits=torch.zeros(0)) for size in SIZES]
    with torch.no_grad():
        for heads in (cascade(), standard()):
            found, _ = heads.eval()(None, maps(), known)
            assert [len(image) for image in found] == [0, 0]
            assert found[0].pred_masks.shape == (0, 1, 28, 28)


def test_given_boxes_receive_masks():
    given = [Instances(size, pred_boxes=objects(2).gt_boxes, pred_classes=torch.tensor([0, 3])) for size in SIZES]
    heads = cascade().eval()
    with torch.no_grad():
        found = heads.forward_with_given_boxes(maps(), given)
    assert all(image.pred_masks.shape == (2, 1, 28, 28) for image in found)
    with pytest.raises(AssertionError):
        heads.train().forward_with_given_boxes(maps(), given)


@pytest.mark.parametrize("on_predictions", [False, True])
def test_the_mask_head_trains_on_sampled_or_on_predicted_boxes(on_predictions):
    heads = standard(train_on_pred_boxes=on_predictions)
    torch.nn.init.constant_(heads.box_predictor.bbox_pred.bias, 0.5)
    sampled, losses, _ = run(heads, truths())
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_mask"}
    assert all(torch.isfinite(value) for value in losses.values())
    sides = [image.proposal_boxes.tensor[:, 2:] - image.proposal_boxes.tensor[:, :2] for image in sampled]
    candidates = [torch.cat((proposals_around(truth).proposal_boxes.tensor, truth.gt_boxes.tensor)) for truth in truths()]
    unmoved = [torch.isin(side, box[:, 2:] - box[:, :2]).all() for side, box in zip(sides, candidates)]
    assert all(unmoved) is not on_predictions


def test_stages_need_one_of_each_part():
    parts = {"box_heads": [box_head()], "box_predictors": [predictor()], "proposal_matchers": [Matcher([0.5], [0, 1])]}
    with pytest.raises(AssertionError):
        CascadeROIHeads(**{**parts, "box_heads": [box_head(), box_head()]}, **sampling(), **mask_options())
