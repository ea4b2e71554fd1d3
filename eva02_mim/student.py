"""The student: an encoder that sees some patches and predicts the teacher's features of the others.

Axes: B images, N patches, K slots for hidden patches, C width, D width of the teacher's features.
"""

from typing import Any

import torch
from torch import Tensor, nn

from eva02_mim.encoder import TrVEncoder
from eva02_mim.hidden import HiddenTokens, hidden_mask
from eva02_mim.initialise import initialise


class MimStudent(TrVEncoder):
    """Encoder, mask token and a linear head, with the parameter names of the released pre-training checkpoints.

    Args:
        target_dim: D, the width of the teacher's features.
        patch_gradient: factor on the gradient of the patch projection; 0.1 in every released recipe.
        init: "jax" (released) or "beit", see `initialise`.
        options: of the encoder: patch_size, image_size, sub_ln, packed, drop_path_rate, attention, feed_forward, rope, ...
    """

    def __init__(
        self,
        embed_dim: int,
        depth: int,
        num_heads: int,
        *,
        target_dim: int = 1024,
        patch_gradient: float = 0.1,
        init: str = "jax",
        **options: Any,
    ) -> None:
        super().__init__(embed_dim, depth, num_heads, patch_gradient=patch_gradient, **options)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.lm_head = nn.Linear(embed_dim, target_dim)
        initialise(self, init)

    def forward(self, images: Tensor, hidden: HiddenTokens) -> Tensor:
        """Normalised images [B, 3, S, S] and what is hidden of them, [B, K] -> predictions [B, K, D].

        A slot of padding yields the prediction of the patch it names; give it no weight. The last block, the norm and the
        head compute hidden patches only, and nothing waits for a value from the device.
        """
        mask = hidden_mask(hidden, self.num_patches)
        tokens = self.run_blocks(self.embed(images, self.mask_token, mask), asking=hidden.index + 1)  # 0 is the class token
        return self.lm_head(self.norm(tokens))

    def predict_all(self, images: Tensor, mask: Tensor) -> Tensor:
        """Predictions for every patch, [B, N, D], under `mask` [B, N] bool: the plain method, which `forward` must equal."""
        features = self.norm(self.run_blocks(self.embed(images, self.mask_token, mask)))
        return self.lm_head(features[:, 1:])
