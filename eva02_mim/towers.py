"""Image towers that a teacher is made of, all seen alike: normalised images to tokens of the patches, and a projection of these.

Axes: B images, N patches (row by row), W width of the tower, D width of the features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

Rgb = tuple[float, float, float]

CLIP_MEAN: Rgb = (0.48145466, 0.4578275, 0.40821073)  # of pixels in [0, 1]; OpenAI's CLIP and all of EVA-CLIP
CLIP_STD: Rgb = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Tower:
    """A network and what must be known to feed it."""

    name: str
    tokens: nn.Module  # [B, 3, S, S] normalised -> [B, N, W], after the final norm, without class and register tokens
    projection: nn.Module  # [B, N, W] -> [B, N, D]; nn.Identity: none
    dim: int
    patch_size: int
    image_size: int
    mean: Rgb = CLIP_MEAN
    std: Rgb = CLIP_STD


class SmallTokens(nn.Module):
    """A plain pre-norm ViT of torch's own layers, without class token: [B, 3, S, S] -> [B, N, W]."""

    def __init__(self, width: int, depth: int, num_heads: int, *, image_size: int, patch_size: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, patch_size, patch_size)
        self.pos_embed = nn.Parameter(torch.randn(1, (image_size // patch_size) ** 2, width) * 0.1)
        layers = [
            nn.TransformerEncoderLayer(width, num_heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        ]
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        return self.norm(self.blocks(patches + self.pos_embed))


def seeded_tower(
    dim: int, *, width: int = 64, depth: int = 2, num_heads: int = 2, image_size: int = 224, patch_size: int = 14, seed: int = 0
) -> Tower:
    """A small tower with random weights that depend on `seed` only, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        tokens = SmallTokens(width, depth, num_heads, image_size=image_size, patch_size=patch_size)
        projection = nn.Linear(width, dim)
    name = f"seeded ViT {seed}"
    return Tower(name, tokens, projection, dim=dim, patch_size=patch_size, image_size=image_size)
