"""Region proposals: labels, losses and the choice of proposals."""

import pytest
import torch
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals, find_top_rpn_proposals
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import EventStorage

from tests.d2lite.modeling.small import CHANNELS, objects, proposals_around, rpn


def maps() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"p{k}": torch.randn(2, CHANNELS, 64 >> k or 1, 64 >> k or 1, generator=generator) for k in range(2, 7)}


def images() -> ImageList:
    return ImageList(torch.zeros(2, 3, 64, 64), [(48, 64), (64, 40)])


def test_one_convolution_and_several_have_the_published_names():
    one = StandardRPNHead(in_channels=CHANNELS, num_anchors=3)
    assert {name.rsplit(".", 1)[0] for name in one.state_dict()} == {"conv", "objectness_logits", "anchor_deltas"}
    two = StandardRPNHead(in_channels=CHANNELS, num_anchors=3, conv_dims=[-1, 4])
    assert {"conv.conv0.weight", "conv.conv1.bias"} <= set(two.state_dict())
    assert two.objectness_logits.weight.shape == (3, 4, 1, 1)
    assert two.anchor_deltas.weight.shape == (12, 4, 1, 1)


def test_the_head_works_on_each_level_alike():
    head = StandardRPNHead(in_channels=CHANNELS, num_anchors=3, conv_dims=[-1, -1])
    levels = list(maps().values())
    scores, offsets = head(levels)
    again, _ = head(levels[1:2])
    torch.testing.assert_close(scores[1], again[0])
    assert [s.shape[1] for s in scores] == [3] * 5
    assert [o.shape[1] for o in offsets] == [12] * 5


def test_a_width_of_zero_is_refused():
    with pytest.raises((ValueError, AssertionError)):
        StandardRPNHead(in_channels=CHANNELS, num_anchors=3, conv_dims=[4, 0])


def test_the_sample_has_the_asked_size_and_matches_the_overlaps():
    network = rpn()
    anchors = network.anchor_generator(list(maps().values()))
    truth = objects(3)
    [labels], [matched] = network.label_and_sample_anchors(anchors, [truth])
    assert (labels >= 0).sum() == 32
    assert 0 < (labels == 1).sum() <= 16
    overlaps = pairwise_iou(truth.gt_boxes, Boxes.cat(anchors))
    assert torch.equal(matched, truth.gt_boxes.tensor[overlaps.argmax(dim=0)])
    assert overlaps.max(dim=0).values[labels == 0].max() < 0.3
    best = (overlaps == overlaps.max(dim=1, keepdim=True).values).any(dim=0)
    assert (overlaps.max(dim=0).values >= 0.7).logical_or(best)[labels == 1].all()


def test_without_objects_only_background_is_sampled():
    network = rpn()
    anchors = network.anchor_generator(list(maps().values()))
    [labels], [matched] = network.label_and_sample_anchors(anchors, [objects(0)])
    assert (labels == 0).sum() == 32
    assert (labels == 1).sum() == 0
    assert matched.shape == (sum(map(len, anchors)), 4)


def test_anchors_beyond_the_border_can_be_left_out():
    network = rpn(anchor_boundary_thresh=0.0, batch_size_per_image=10_000)
    anchors = network.anchor_generator(list(maps().values()))
    [labels], _ = network.label_and_sample_anchors(anchors, [objects(3)])
    assert not (labels[~Boxes.cat(anchors).inside_box((48, 64))] >= 0).any()
    assert (labels >= 0).any()


def run(network: torch.nn.Module, counts: tuple[int, int] = (3, 2)) -> tuple[list[Instances], dict, EventStorage]:
    torch.manual_seed(0)
    truth = [objects(count, size) for count, size in zip(counts, images().image_sizes)]
    with EventStorage() as storage:
        proposals, losses = network(images(), maps(), truth)
    return proposals, losses, storage


def test_losses_are_divided_by_the_nominal_sample():
    # more anchors are wanted than exist, so every labelled one takes part, and doubling the number halves the loss
    head = rpn().rpn_head
    wanted = 10_000
    _, once, _ = run(rpn(head=head, batch_size_per_image=wanted, positive_fraction=1.0))
    _, twice, _ = run(rpn(head=head, batch_size_per_image=2 * wanted, positive_fraction=1.0))
    assert set(once) == {"loss_rpn_cls", "loss_rpn_loc"}
    for name, value in once.items():
        assert value > 0
        torch.testing.assert_close(twice[name], value / 2)


def test_loss_weights_scale_the_losses():
    head = rpn().rpn_head
    _, plain, _ = run(rpn(head=head))
    _, weighted, _ = run(rpn(head=head, loss_weight={"loss_rpn_loc": 3.0}))
    torch.testing.assert_close(weighted["loss_rpn_loc"], 3 * plain["loss_rpn_loc"])
    torch.testing.assert_close(weighted["loss_rpn_cls"], plain["loss_rpn_cls"])
    _, halved, _ = run(rpn(head=head, loss_weight=0.5))
    torch.testing.assert_close(halved["loss_rpn_cls"], plain["loss_rpn_cls"] / 2)


def test_the_size_of_the_sample_is_logged():
    _, _, storage = run(rpn())
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["rpn/num_pos_anchors"] > 0
    assert latest["rpn/num_pos_anchors"] + latest["rpn/num_neg_anchors"] == 32


def test_a_batch_without_objects_has_no_box_loss_but_gradients():
    network = rpn()
    _, losses, _ = run(network, (0, 0))
    assert losses["loss_rpn_loc"].item() == 0
    assert losses["loss_rpn_cls"].item() > 0
    sum(losses.values()).backward()
    assert network.rpn_head.anchor_deltas.weight.grad is not None


def test_proposals_are_limited_sorted_and_inside_the_image():
    training, _, _ = run(rpn())
    network = rpn().eval()
    testing, losses = network(images(), maps())
    assert losses == {}
    for found, limit in ((training, 30), (testing, 20)):
        for image, (height, width) in zip(found, images().image_sizes):
            assert 0 < len(image) <= limit
            assert image.image_size == (height, width)
            assert torch.equal(image.objectness_logits, image.objectness_logits.sort(descending=True).values)
            assert (image.proposal_boxes.tensor >= 0).all()
            assert (image.proposal_boxes.tensor[:, 2] <= width).all()
            assert not image.proposal_boxes.tensor.requires_grad


def top(boxes: torch.Tensor, logits: torch.Tensor, training: bool = False, **options: float) -> Instances:
    settings = {"nms_thresh": 0.7, "pre_nms_topk": 100, "post_nms_topk": 100, "min_box_size": 0.0, **options}
    [found] = find_top_rpn_proposals([boxes[None]], [logits[None]], [(50, 50)], training=training, **settings)
    return found


BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [20.0, 20.0, 90.0, 90.0], [60.0, 60.0, 70.0, 70.0]])
LOGITS = torch.tensor([1.0, 3.0, 2.0, 9.0])


def test_overlapping_and_outside_proposals_are_dropped():
    found = top(BOXES, LOGITS)
    assert found.objectness_logits.tolist() == [3, 2]
    assert found.proposal_boxes.tensor[1].tolist() == [20, 20, 50, 50]
    assert sorted(found.get_fields()) == ["objectness_logits", "proposal_boxes"]


def test_small_proposals_are_dropped():
    assert top(BOXES, LOGITS, min_box_size=9.5).objectness_logits.tolist() == [2, 1]


def test_levels_do_not_suppress_each_other_and_are_cut_separately():
    [found] = find_top_rpn_proposals(
        [BOXES[None], BOXES[None]], [LOGITS[None], LOGITS[None] + 0.5], [(50, 50)], 0.7, 2, 100, 0.0, False
    )
    assert found.objectness_logits.tolist() == [3.5, 3]  # the best of each level lies outside the image


def test_numbers_that_are_not_finite_are_dropped_at_test_time_and_an_error_in_training():
    broken = torch.tensor([1.0, float("nan"), 2.0, 9.0])
    assert top(BOXES, broken).objectness_logits.tolist() == [2, 1]
    with pytest.raises(FloatingPointError):
        top(BOXES, broken, training=True)


def test_ground_truth_joins_the_proposals_with_a_high_score():
    truth = objects(3)
    known = proposals_around(truth)
    [both] = add_ground_truth_to_proposals([truth], [known])
    assert len(both) == len(known) + 3
    assert torch.equal(both.proposal_boxes.tensor[-3:], truth.gt_boxes.tensor)
    assert both.objectness_logits[-3:].tolist() == pytest.approx([23.026] * 3, abs=1e-3)
    [same] = add_ground_truth_to_proposals([objects(0)], [known])
    assert len(same) == len(known)
