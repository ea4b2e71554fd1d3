"""The simple feature pyramid, layer-wise learning rates and what a backbone tells about itself."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, get_vit_lr_decay_rate
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from tests.d2lite.modeling.small import CHANNELS, Patches, pyramid


def test_a_backbone_describes_its_maps():
    net = Patches()
    assert net.output_shape() == {"last_feat": ShapeSpec(channels=16, stride=16)}
    assert net.size_divisibility == 0
    assert net.padding_constraints == {}


def test_a_backbone_needs_a_forward():
    with pytest.raises(TypeError):
        Backbone()


def test_every_level_has_its_stride():
    model = pyramid()
    shapes = model.output_shape()
    assert {name: shape.stride for name, shape in shapes.items()} == {f"p{k}": 2**k for k in range(2, 7)}
    levels = model(torch.randn(2, 3, 64, 96))
    assert list(levels) == list(shapes)
    for name, level in levels.items():
        stride = shapes[name].stride
        assert level.shape == (2, CHANNELS, -(-64 // stride), -(-96 // stride))


def test_the_names_of_the_parameters_are_those_of_released_detectors():
    names = {name.rsplit(".", 1)[0] for name in pyramid().state_dict() if name.startswith("simfp")}
    head = {"simfp_2.0", "simfp_2.1", "simfp_2.3", "simfp_3.0"}
    pairs = [("2", 4), ("3", 1), ("4", 0), ("5", 1)]
    projections = {f"simfp_{k}.{i + d}{norm}" for k, i in pairs for d in (0, 1) for norm in ("", ".norm")}
    assert names == head | projections


def test_convolutions_before_a_norm_have_no_bias_but_enlarging_ones_do():
    state = pyramid().state_dict()
    assert "simfp_4.0.bias" not in state
    assert "simfp_2.3.bias" in state


def test_a_batch_is_asked_to_be_square():
    assert pyramid(square_pad=64).padding_constraints["square_size"] == 64
    assert pyramid(square_pad=64).size_divisibility == 0


def test_the_extra_level_takes_every_second_position():
    source = torch.arange(25.0).reshape(1, 1, 5, 5)
    [coarse] = LastLevelMaxPool()(source)
    assert torch.equal(coarse, source[..., ::2, ::2])


def test_a_gap_between_levels_is_refused():
    with pytest.raises(AssertionError):
        pyramid(scales=(4.0, 1.0))


def test_an_unknown_scale_is_refused():
    with pytest.raises(NotImplementedError):
        pyramid(scales=(8.0,))


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("backbone.net.pos_embed", 13),
        ("backbone.net.patch_embed.proj.weight", 13),
        ("backbone.net.blocks.0.attn.q_bias", 12),
        ("backbone.net.blocks.11.mlp.w3.weight", 1),
        ("backbone.simfp_2.0.weight", 0),
        ("roi_heads.box_head.0.fc1.weight", 0),
        ("proposal_generator.rpn_head.conv.conv0.weight", 0),
    ],
)
def test_a_layer_learns_slower_the_further_it_is_from_the_top(name, steps):
    assert get_vit_lr_decay_rate(name, lr_decay_rate=0.7, num_layers=12) == pytest.approx(0.7**steps)


def test_without_decay_all_layers_learn_alike():
    assert get_vit_lr_decay_rate("backbone.net.blocks.3.norm1.weight", num_layers=24) == 1
