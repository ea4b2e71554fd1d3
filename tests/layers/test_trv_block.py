"""One block from its parts, and as a piece that others can compose."""

import pytest
import torch

from eva02_det.layers.attention import RotaryAttention
from eva02_det.layers.pick import pick
from eva02_det.layers.rope import rotary_table
from eva02_det.layers.swiglu import Mlp, SwiGLU
from eva02_det.layers.trv_block import TrVBlock


def block(drop_path: float = 0.0) -> TrVBlock:
    return TrVBlock(RotaryAttention(16, 2), SwiGLU(16, 24), dim=16, drop_path=drop_path)


def test_branches_are_pre_norm_and_residual() -> None:
    module, tokens, table = block(), torch.randn(2, 6, 16), rotary_table((2, 3), 8)
    after_attention = tokens + module.attn(module.norm1(tokens), table)
    torch.testing.assert_close(module(tokens, table), after_attention + module.mlp(module.norm2(after_attention)))


def test_a_class_token_with_an_unturned_row_can_stand_before_the_grid() -> None:
    module, grid = block(), rotary_table((2, 3), 8)
    still = torch.tensor([1.0, 0.0]).expand(1, 4, 2)
    tokens = torch.randn(1, 7, 16)
    patches_first = torch.cat((tokens[:, 1:], tokens[:, :1]), 1)
    before = module(tokens, torch.cat((still, grid)))
    after = module(patches_first, torch.cat((grid, still)))
    torch.testing.assert_close(before, torch.cat((after[:, 6:], after[:, :6]), 1))


def test_dropped_branches_leave_the_sample_as_it_was() -> None:
    torch.manual_seed(0)
    module, tokens = block(drop_path=0.95).train(), torch.randn(64, 6, 16)
    same = (module(tokens, rotary_table((2, 3), 8)) == tokens).flatten(1).all(1)
    assert 40 < same.sum() < 64  # 0.95^2 of 64 is 58


def test_norms_use_the_small_epsilon() -> None:
    assert {module.eps for module in block().modules() if isinstance(module, torch.nn.LayerNorm)} == {1e-6}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("rope", [True, False])
def test_some_tokens_alone_equal_the_same_tokens_among_all_and_so_do_their_gradients(packed: bool, rope: bool) -> None:
    torch.manual_seed(0)
    module = TrVBlock(RotaryAttention(16, 2, packed=packed), SwiGLU(16, 24, packed=packed), dim=16).double()
    table = rotary_table((2, 3), 8) if rope else None
    tokens = torch.randn(3, 6, 16, dtype=torch.float64, requires_grad=True)
    asking = torch.tensor([[5, 0], [1, 2], [4, 4]])
    few, all_ = module(tokens, table, None, asking), pick(module(tokens, table), asking)
    torch.testing.assert_close(few, all_, rtol=0, atol=1e-12)
    inputs = (tokens, *module.parameters())
    weight = torch.randn_like(few)
    for one, other in zip(torch.autograd.grad(few, inputs, weight), torch.autograd.grad(all_, inputs, weight)):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_packed_matrices_compute_what_their_parts_compute(training: bool) -> None:
    torch.manual_seed(0)
    apart = TrVBlock(RotaryAttention(16, 2), SwiGLU(16, 24, sub_ln=False), dim=16).double()
    packed = TrVBlock(RotaryAttention(16, 2, packed=True), SwiGLU(16, 24, sub_ln=False, packed=True), dim=16).double()
    for bias in (apart.attn.q_bias, apart.attn.v_bias):
        torch.nn.init.normal_(bias)
    state = apart.state_dict()
    state["attn.qkv.weight"] = torch.cat([state.pop(f"attn.{part}_proj.weight") for part in "qkv"])
    for kind in ("weight", "bias"):
        state[f"mlp.w12.{kind}"] = torch.cat([state.pop(f"mlp.w{part}.{kind}") for part in "12"])
    packed.load_state_dict(state)
    tokens, table = torch.randn(2, 6, 16, dtype=torch.float64), rotary_table((2, 3), 8)
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(packed(tokens, table), apart(tokens, table), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sub_ln", [True, False])
def test_the_plain_feed_forward_layer_equals_its_formula(sub_ln: bool) -> None:
    module, x = Mlp(6, 10, sub_ln=sub_ln).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    hidden = x @ module.fc1.weight.T + module.fc1.bias
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    if sub_ln:
        hidden = (hidden - hidden.mean(-1, keepdim=True)) / (hidden.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    torch.testing.assert_close(module(x), hidden @ module.fc2.weight.T + module.fc2.bias)
