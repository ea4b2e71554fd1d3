"""What is kept for a backward pass is counted exactly, with memory and without."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from torch import Tensor, nn

from configs.common.vitdet import plain_vit
from eva02_det import _provider
from eva02_det.engine.saved_tensors import GpuLike, saved_bytes, saved_per_image
from tests.engine.test_memory import kept_per_image

SIDE = 96


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 64))


def test_a_stack_of_layers_keeps_the_inputs_worked_out_by_hand():
    # inputs of the four layers, mean and deviation of the norm
    assert saved_bytes(layers(), torch.rand(10, 64, requires_grad=True)) == 4 * 10 * (64 + 256 + 256 + 256 + 2)


def test_tensors_without_memory_are_counted_as_if_they_had_it():
    real = saved_bytes(layers(), torch.rand(10, 64, requires_grad=True))
    assert saved_bytes(layers().to("meta"), torch.empty(10, 64, device="meta", requires_grad=True)) == real


def test_what_two_layers_share_is_counted_once_and_views_of_weights_not_at_all():
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    assert saved_bytes(lambda x: first(x) + second(x), torch.rand(5, 8, requires_grad=True)) == 4 * 5 * 8


def test_without_a_gradient_nothing_is_kept():
    assert saved_bytes(lambda x: x * 2 + 1, torch.rand(5)) == 0


def test_mixed_precision_keeps_low_inputs_of_products_and_full_inputs_of_norms():
    with GpuLike(mixed=True), torch.device("meta"):
        kept = saved_bytes(layers(), torch.empty(10, 64, requires_grad=True))
    weights = 2 * (64 * 256 + 256 * 64)
    # the input of GELU is low, that of the norm is cast to fp32, as is what the last layer casts back
    assert kept - weights == 10 * (2 * 64 + 2 * 256 + 4 * 256 + 4 * 2 + 2 * 256)


@pytest.mark.parametrize("mixed", [False, True])
def test_fused_attention_keeps_no_scores(mixed: bool):
    size = 2 if mixed else 4
    q, k, v = (torch.empty(1, 2, 100, 16, device="meta", requires_grad=True) for _ in range(3))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    with GpuLike(mixed=mixed):
        assert saved_bytes(attend, q, k, v) == 4 * size * 2 * 100 * 16 + 4 * 2 * 100


@pytest.mark.parametrize("mixed", [False, True])
def test_another_backbone_is_counted_as_it_really_behaves(mixed: bool, monkeypatch: pytest.MonkeyPatch):
    """The plain ViT with relative positions; on the CPU its attention is fused as well, and its norms read fp32 either way."""
    if _provider.active() == "official":  # it writes its softmax out: fp32 on a GPU, but bf16 on the CPU that is measured here
        monkeypatch.setattr("eva02_det.engine.saved_tensors.IN_FULL", (F.layer_norm, torch.layer_norm))
    node = plain_vit("B", image_size=SIDE, drop_path_rate=0.1)
    node.update(embed_dim=64, depth=3, num_heads=4, window_size=4, global_block_indexes=[1])
    with torch.device("meta"):
        empty = instantiate(node).train()
    size = 2 if mixed else 4
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        measured = kept_per_image(instantiate(node).train(), torch.rand(1, 3, SIDE, SIDE)) - size * 3 * SIDE**2
    assert saved_per_image(empty, SIDE, mixed=mixed) == pytest.approx(measured, rel=0.02)
