"""Rotary attention: its kernels agree, and a window is attention over that window alone."""

import importlib.util

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from eva02_det.layers.attention import RotaryAttention, attention_kernel
from eva02_det.layers.rope import rotary_table
from eva02_det.layers.windows import window_order

KERNELS = ["sdpa", "math"] + ["xformers"] * (importlib.util.find_spec("xformers") is not None)


def attention(dim: int = 24, heads: int = 2, kernel: str = "sdpa") -> RotaryAttention:
    torch.manual_seed(0)
    module = RotaryAttention(dim, heads, kernel=kernel)
    for bias in (module.q_bias, module.v_bias):
        torch.nn.init.normal_(bias)
    return module


def by_definition(module: RotaryAttention, tokens: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Head by head and pair by pair, from the formula. [N, D] -> [N, D]."""
    q = tokens @ module.q_proj.weight.T + module.q_bias
    k = tokens @ module.k_proj.weight.T
    v = tokens @ module.v_proj.weight.T + module.v_bias
    heads = []
    for head in torch.arange(tokens.shape[1]).chunk(module.num_heads):
        turned = []
        for x in (q[:, head], k[:, head]):
            even, odd = x[:, 0::2], x[:, 1::2]
            pairs = (even * angles.cos() - odd * angles.sin(), odd * angles.cos() + even * angles.sin())
            turned.append(torch.stack(pairs, -1).flatten(1))
        weights = torch.softmax(turned[0] @ turned[1].T / len(head) ** 0.5, -1)
        heads.append(weights @ v[:, head])
    return torch.cat(heads, 1) @ module.proj.weight.T + module.proj.bias


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grid", [(3, 4), (12, 11)])
def test_output_equals_the_formula_with_one_projection_product_and_with_three(grid: tuple[int, int], training: bool) -> None:
    module = attention()  # 12 tokens < 3 * 24 <= 132: both sides of the choice
    table = rotary_table(grid, 12)
    tokens = torch.randn(1, grid[0] * grid[1], 24)
    expected = by_definition(module, tokens[0], torch.atan2(table[..., 1], table[..., 0]))
    before = tokens.clone()
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(module(tokens, table)[0], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(tokens, before)


def test_gradients_equal_those_of_the_formula() -> None:
    module, table, tokens = attention(), rotary_table((4, 4), 12), torch.randn(1, 16, 24)
    parameters = list(module.parameters())
    expected = by_definition(module, tokens[0], torch.atan2(table[..., 1], table[..., 0]))
    theirs = torch.autograd.grad(expected.square().sum(), parameters)
    for one, other in zip(torch.autograd.grad(module(tokens, table).square().sum(), parameters), theirs):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("tokens", "products"), [(16, 3), (256, 1)])
def test_inference_projects_many_tokens_in_one_product(tokens: int, products: int) -> None:
    module, shapes = attention(), []

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
                shapes.append(args[-1].shape)
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Counter():
        module(torch.randn(1, tokens, 24), rotary_table((16, tokens // 16), 12))
    assert len(shapes) == products + 1  # and the output projection


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_agree_forward_and_backward(kernel: str) -> None:
    q, k, v = torch.randn(3, 2, 4, 10, 8).requires_grad_().unbind(0)
    reference = torch.softmax(torch.einsum("bhnc,bhmc->bhnm", q, k) / 8**0.5, -1) @ v
    result = attention_kernel(kernel)(q, k, v)
    torch.testing.assert_close(result, reference, rtol=1e-4, atol=1e-5)
    ours = torch.autograd.grad(result.square().sum(), (q, k, v))
    for one, other in zip(ours, torch.autograd.grad(reference.square().sum(), (q, k, v))):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_windowed_attention_is_attention_over_each_window_alone() -> None:
    module, order = attention(), window_order((4, 6), 2)
    inside = rotary_table((2, 2), 12)
    tokens = order.to_windows(torch.randn(1, 24, 24))
    alone = torch.cat([module(window, inside) for window in tokens.split(4, 1)], 1)
    torch.testing.assert_close(module(tokens, order.tile(inside), order), alone, rtol=1e-4, atol=1e-5)


def test_empty_slots_take_part_as_projections_of_zero_vectors() -> None:
    module, order = attention(), window_order((3, 3), 4)
    table = rotary_table((4, 4), 12)
    image = torch.randn(1, 3, 3, 24)
    padded = torch.nn.functional.pad(image, (0, 0, 0, 1, 0, 1)).flatten(1, 2)
    expected = module(padded, table).view(1, 4, 4, 24)[:, :3, :3]
    result = order.to_grid(module(order.to_windows(image.flatten(1, 2)), order.tile(table), order))
    torch.testing.assert_close(result.view(1, 3, 3, 24), expected, rtol=1e-4, atol=1e-5)


def test_unknown_kernel_is_refused_with_the_choice() -> None:
    with pytest.raises(ValueError, match="sdpa, xformers, math"):
        attention(kernel="flash")


@pytest.mark.skipif("xformers" in KERNELS, reason="xformers is installed here")
def test_absent_xformers_is_refused_when_built_with_the_command_that_installs_it() -> None:
    with pytest.raises(ModuleNotFoundError, match="pip install xformers"):
        attention(kernel="xformers")
