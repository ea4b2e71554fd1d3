"""One block from its parts, and as a piece that others can compose."""

import torch

from eva02_det.layers.attention import RotaryAttention
from eva02_det.layers.rope import rotary_table
from eva02_det.layers.swiglu import SwiGLU
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
