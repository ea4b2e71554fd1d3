"""The plain ViT as configs build it: detectron2's class, with the arguments of TrV."""

import pytest
import torch
from detectron2.modeling import ViT

from eva02_det.modeling.plain_vit import PLAIN_VIT_SIZES, build_plain_vit


def tiny(**options: object) -> ViT:
    torch.manual_seed(0)
    return build_plain_vit(16, 4, 2, **{"image_size": 64, "window_size": 3, "global_block_indexes": (1, 3), **options})


def test_it_is_detectron2s_class() -> None:
    assert type(tiny()) is ViT


def test_blocks_that_are_not_global_have_tables_of_a_window() -> None:
    rows = [len(block.attn.rel_pos_h) for block in tiny().blocks]
    assert rows == [5, 7, 5, 7]  # 2 x 3 - 1 for a window of 3, 2 x 4 - 1 for the 4 x 4 patches of 64 px


def test_norms_have_the_epsilon_of_masked_autoencoders() -> None:
    norms = [module for module in tiny().modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 8
    assert {norm.eps for norm in norms} == {1e-6}


def test_further_arguments_reach_the_class() -> None:
    assert not [name for name in tiny(use_abs_pos=False, use_rel_pos=False).state_dict() if "pos" in name]
    assert tiny(pretrain_img_size=64, pretrain_use_cls_token=False).pos_embed.shape == (1, 16, 16)


@pytest.mark.parametrize("size", PLAIN_VIT_SIZES)
def test_it_can_be_built_without_memory_whatever_the_drop_path(size: str) -> None:
    shape = PLAIN_VIT_SIZES[size]
    with torch.device("meta"):
        model = build_plain_vit(shape.embed_dim, shape.depth, shape.num_heads, drop_path_rate=0.4)
    assert all(weight.is_meta for weight in model.parameters())
    assert len(model.blocks) == shape.depth
