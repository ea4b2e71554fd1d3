"""Both initialisations against the standard deviations of the specification and of the stored models."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from eva02_mim.initialise import initialise
from eva02_mim.sizes import student_of_size
from eva02_mim.student import MimStudent
from tests.golden.cases import GoldenCase, golden_cases
from tests.mim.small_student import small_student

CUT = 0.010792  # standard deviation of normal(0.02) cut at one sigma: 0.02 * 0.53960
STORED = [p for p in golden_cases("mim") if p.values[0] is None or "manifest" in p.id]


def spread(parameter: torch.Tensor) -> float:
    return parameter.detach().double().std().item()


def two_blocks(size: str, **options: Any) -> MimStudent:
    """The first and the last block of a size: what depth changes is set by hand where it matters."""
    torch.manual_seed(0)
    shapes = {"Ti": (192, 3, False), "S": (384, 6, False), "B": (768, 12, True), "L": (1024, 16, True)}
    width, heads, sub_ln = shapes[size]
    return MimStudent(width, 2, heads, sub_ln=sub_ln, **options)


def check(parameter: torch.Tensor, expected: float) -> None:
    """Within five standard errors of the standard deviation, at least 0.2 %."""
    assert spread(parameter) == pytest.approx(expected, rel=max(5 / math.sqrt(2 * parameter.numel()), 2e-3))


@pytest.mark.parametrize("case", STORED)
def test_every_kind_of_parameter_is_spread_as_in_the_stored_model(case: GoldenCase) -> None:
    torch.manual_seed(1)
    student = student_of_size(case.name.rsplit("_", 1)[1])
    for name, stored in case.json("init_std.json").items():
        parameter = student.get_parameter(name)
        if stored == 0:
            assert spread(parameter) == 0, name
        else:  # the stored value is one draw as well, hence the wider bound
            assert spread(parameter) == pytest.approx(stored, rel=max(6 / math.sqrt(parameter.numel()), 2e-3)), name


@pytest.mark.parametrize(("size", "qkv", "w12"), [("Ti", 0.0510, 0.0406), ("S", 0.0361, 0.0287)])
def test_packed_matrices_are_spread_by_their_stored_shape(size: str, qkv: float, w12: float) -> None:
    block = two_blocks(size).blocks[1]
    check(block.attn.qkv.weight, qkv)
    check(block.mlp.w12.weight, w12)


@pytest.mark.parametrize(
    ("size", "depth", "gain", "kept", "scaled", "ffn"),
    [("B", 12, 1.7827, 0.0361, 0.0643, 0.0475), ("L", 24, 1.9675, 0.0312, 0.0614, 0.0454)],
)
def test_sub_ln_scales_what_the_residual_stream_sees(
    size: str, depth: int, gain: float, kept: float, scaled: float, ffn: float
) -> None:
    assert math.sqrt(math.log(2 * depth)) == pytest.approx(gain, abs=5e-5)
    ours = math.sqrt(math.log(4))  # of the two blocks that are built here
    block = two_blocks(size).blocks[0]
    for matrix in (block.attn.q_proj, block.attn.k_proj):
        check(matrix.weight, kept)
    for matrix in (block.attn.v_proj, block.attn.proj):
        check(matrix.weight, scaled / gain * ours)
    for matrix in (block.mlp.w1, block.mlp.w2, block.mlp.w3):
        check(matrix.weight, ffn / gain * ours)


def test_tokens_head_and_patch_projection_are_drawn_by_their_own_laws() -> None:
    student = two_blocks("B")
    for token in (student.cls_token, student.mask_token, student.pos_embed):
        assert token.abs().max() <= 0.02
        check(token, CUT)
    check(student.lm_head.weight, math.sqrt(2 / (768 + 1024)))
    kernel, bias = student.patch_embed.proj.weight, student.patch_embed.proj.bias
    bound = math.sqrt(6 / (588 + 768))
    assert 0.99 * bound < kernel.abs().max() <= bound
    check(kernel, bound / math.sqrt(3))
    assert 0.04 < bias.abs().max() <= 588**-0.5


@pytest.mark.parametrize("init", ["jax", "beit"])
def test_biases_are_zero_and_norms_are_the_identity(init: str) -> None:
    student = small_student(init=init)
    initialise(student, init)  # again, over the random values of the small student
    for name, module in student.named_modules():
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all(), name
            assert (module.bias == 0).all(), name
        if isinstance(module, nn.Linear) and module.bias is not None:
            assert (module.bias == 0).all(), name
    for block in student.blocks:
        assert not block.attn.q_bias.any()
        assert not block.attn.v_bias.any()


def test_beit_draws_everything_narrow_and_shrinks_branches_with_depth() -> None:
    torch.manual_seed(0)
    student = MimStudent(256, 3, 4, init="beit", sub_ln=False, feed_forward="gelu")
    for matrix in (student.patch_embed.proj.weight, student.lm_head.weight, student.blocks[2].attn.qkv.weight):
        assert matrix.abs().max() <= 0.02
        check(matrix, CUT)
    for number, block in enumerate(student.blocks, start=1):
        check(block.attn.proj.weight, CUT / math.sqrt(2 * number))
        check(block.mlp.fc2.weight, CUT / math.sqrt(2 * number))
        check(block.mlp.fc1.weight, CUT)


@pytest.mark.parametrize(("options", "scaled"), [({"sub_ln": True}, True), ({"sub_ln": False}, False)])
def test_the_plain_feed_forward_layer_is_scaled_with_sub_ln_only(options: dict[str, Any], scaled: bool) -> None:
    torch.manual_seed(0)
    block = MimStudent(128, 6, 2, feed_forward="gelu", **options).blocks[3]
    check(block.mlp.fc1.weight, math.sqrt(2 / (128 + 512)) * (math.sqrt(math.log(12)) if scaled else 1))


def test_the_same_seed_draws_the_same_student() -> None:
    one, other = small_student(), small_student()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))


def test_an_unknown_initialisation_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of jax, beit"):
        small_student(init="he")
