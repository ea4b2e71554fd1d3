"""A small tower of the teacher's kind, and pictures for it."""

import timm
import torch
from torch import Tensor, nn

from eva02_mim.towers import EVA_CLIP_G

SMALL = {"embed_dim": 176, "depth": 3, "num_heads": 2}  # heads of 88 channels, as in the g model


def small_eva(classes: int = 24, depth: int = 3, **options: object) -> nn.Module:
    """The g model cut in width and depth, with biases and norms that matter, as after training."""
    torch.manual_seed(0)
    model = timm.create_model(EVA_CLIP_G, num_classes=classes, **{**SMALL, "depth": depth}, **options)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.copy_(torch.randn_like(weight) * 0.2 + float("norm" in name and name.endswith("weight")))
            else:
                weight.mul_(3)
    return model.eval()


def pictures(count: int = 2, side: int = 224) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def hidden_stream(model: nn.Module, images: Tensor) -> Tensor:
    """Tokens before the final norm, block by block."""
    tokens = model.patch_embed(images)
    tokens = torch.cat([model.cls_token.expand(len(tokens), -1, -1), tokens], 1) + model.pos_embed
    for block in model.blocks:
        tokens = block(tokens)
    return tokens
