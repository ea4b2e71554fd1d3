"""The gated feed-forward layer against its formula."""

import pytest
import torch

from eva02_det.layers.swiglu import SwiGLU


def by_definition(module: SwiGLU, x: torch.Tensor, sub_ln: bool) -> torch.Tensor:
    gate = x @ module.w1.weight.T + module.w1.bias
    hidden = gate * torch.sigmoid(gate) * (x @ module.w2.weight.T + module.w2.bias)
    if sub_ln:
        centred = hidden - hidden.mean(-1, keepdim=True)
        hidden = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * module.ffn_ln.weight + module.ffn_ln.bias
    return hidden @ module.w3.weight.T + module.w3.bias


@pytest.mark.parametrize("sub_ln", [True, False])
def test_output_equals_the_formula_with_and_without_gradients(sub_ln: bool) -> None:
    module, x = SwiGLU(6, 10, sub_ln=sub_ln), torch.randn(2, 5, 6)
    expected = by_definition(module, x, sub_ln)
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


def test_input_is_left_alone_when_tensors_are_reused() -> None:
    module, x = SwiGLU(6, 10), torch.randn(3, 6)
    before = x.clone()
    with torch.no_grad():
        module(x)
    assert torch.equal(x, before)


def test_only_sub_ln_has_a_norm_to_store() -> None:
    assert {key for key in SwiGLU(6, 10).state_dict() if "ffn_ln" in key} == {"ffn_ln.weight", "ffn_ln.bias"}
    assert not any("ffn_ln" in key for key in SwiGLU(6, 10, sub_ln=False).state_dict())
