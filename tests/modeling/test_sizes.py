"""The named sizes have the published numbers of parameters and keys."""

import pytest
import torch

from eva02_det.modeling.sizes import TRV_SIZES, spaced_global_blocks
from eva02_det.modeling.vit import Positions, TrV
from tests.golden.cases import GoldenCase, golden_cases


def on_meta(size: str, **arguments: object) -> TrV:
    shape = TRV_SIZES[size]
    with torch.device("meta"):
        return TrV(shape.embed_dim, shape.depth, shape.num_heads, sub_ln=shape.sub_ln, **arguments)


def parameters_by_arithmetic(width: int, depth: int, sub_ln: bool) -> int:
    hidden = width * 8 // 3
    attention = 4 * width**2 + 3 * width  # q, k, v, output; biases of q, v and the output
    feed_forward = 3 * width * hidden + 2 * hidden + width + 2 * hidden * sub_ln
    block = attention + feed_forward + 4 * width
    return depth * block + (3 * 16**2 + 1) * width + (14**2 + 1) * width


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("Ti", parameters_by_arithmetic(192, 12, False)),
        ("S", parameters_by_arithmetic(384, 12, False)),
        ("B", 85_848_576),
        ("L", 303_388_608),
    ],
)
def test_size_has_its_number_of_parameters(size: str, count: int) -> None:
    assert sum(parameter.numel() for parameter in on_meta(size).parameters()) == count


def test_arithmetic_gives_the_published_counts_too() -> None:
    assert parameters_by_arithmetic(768, 12, True) == 85_848_576
    assert parameters_by_arithmetic(1024, 24, True) == 303_388_608


@pytest.mark.parametrize("size", TRV_SIZES)
def test_only_the_large_two_have_a_norm_inside_the_feed_forward_layer(size: str) -> None:
    assert any("ffn_ln" in key for key in on_meta(size).state_dict()) == (size in ("B", "L"))


@pytest.mark.parametrize(
    ("depth", "count", "indexes"),
    [
        (12, 4, (2, 5, 8, 11)),
        (12, 6, (1, 3, 5, 7, 9, 11)),
        (24, 4, (5, 11, 17, 23)),
        (24, 8, (2, 5, 8, 11, 14, 17, 20, 23)),
        (24, 6, (3, 7, 11, 15, 19, 23)),
        (5, 5, (0, 1, 2, 3, 4)),
        (12, 0, ()),
    ],
)
def test_global_blocks_stand_at_equal_distance_and_end_the_network(depth: int, count: int, indexes: tuple[int, ...]) -> None:
    assert spaced_global_blocks(depth, count) == indexes


def test_uneven_spacing_is_refused() -> None:
    with pytest.raises(ValueError, match="5 global blocks"):
        spaced_global_blocks(12, 5)


@pytest.mark.parametrize("case", golden_cases("lr_decay"))
def test_keys_and_shapes_equal_those_of_the_released_detector(case: GoldenCase) -> None:
    config = case.config
    size = {768: "B", 1024: "L"}[config["embed_dim"]]
    global_blocks = set(range(config["depth"])) - set(config["window_block_indexes"])
    model = on_meta(
        size,
        window_size=config["window_size"],
        global_block_indexes=global_blocks,
        positions=Positions(config["pretrain_img_size_of_pos_embed"] // 16),
    )
    prefix = "backbone.net."
    released = {
        key.removeprefix(prefix): shape
        for key, (shape, _) in case.json("state_dict.json").items()
        if key.startswith(prefix) and ".freqs_" not in key
    }
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == released
    assert sum(parameter.numel() for parameter in model.parameters()) == case.spec["backbone_net_parameters"]
    assert tuple(sorted(global_blocks)) == spaced_global_blocks(config["depth"], len(global_blocks))
