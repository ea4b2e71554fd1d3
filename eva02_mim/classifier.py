"""The encoder as a classifier: mean of the patches, a new norm and a linear head (specification 8.1).

Axes: B images, N patches, D width, C classes, S pixels of a side.
"""

from typing import Any

import torch
from torch import Tensor, nn

from eva02_det.layers.sizes import TRV_SIZES
from eva02_det.utils.errors import UserError
from eva02_mim.encoder import TrVEncoder
from eva02_mim.initialise import STD, initialise

PRETRAINED_GRID = 16  # patches on a side in pre-training, which the rotary angles of larger images keep to


class Classifier(TrVEncoder):
    """Encoder, norm of the mean patch and head, with the parameter names of the released fine-tuned checkpoints.

    Args:
        num_classes: C, at least 2.
        use_cls: read the class token, behind the norm that pre-training had, instead of the mean of the patches behind a norm
            of their own.
        head_init_scale: factor on the head's first weights, normal(0.02) cut at one sigma.
        train_patch_embed: the released fine-tuning detaches the patch projection, which therefore never learns; so it is here
            unless this is set.
        rotary_grid: None: one position for each patch. The default keeps the span of pre-training at 224 px.
        options: of the encoder.
    """

    def __init__(
        self,
        embed_dim: int,
        depth: int,
        num_heads: int,
        *,
        num_classes: int,
        use_cls: bool = False,
        head_init_scale: float = 0.001,
        train_patch_embed: bool = False,
        image_size: int = 448,
        rotary_grid: int | None = PRETRAINED_GRID,
        **options: Any,
    ) -> None:
        gradient = 1.0 if train_patch_embed else 0.0
        super().__init__(
            embed_dim, depth, num_heads, image_size=image_size, rotary_grid=rotary_grid, patch_gradient=gradient, **options
        )
        if num_classes < 2:
            raise UserError(f"model.num_classes={num_classes} leaves nothing to tell apart; it must be at least 2")
        self.num_classes, self.use_cls = num_classes, use_cls
        self.fc_norm: nn.Module = nn.Identity() if use_cls else nn.LayerNorm(embed_dim, eps=1e-6)
        if not use_cls:
            self.norm = nn.Identity()
        self.head = nn.Linear(embed_dim, num_classes)
        initialise(self)
        self.renew_head(head_init_scale)
        self.patch_embed.requires_grad_(train_patch_embed)  # DDP waits for the gradient of whatever asks for one

    @torch.no_grad()
    def renew_head(self, scale: float) -> None:
        """Draw the head anew."""
        nn.init.trunc_normal_(self.head.weight, std=STD, a=-STD, b=STD)
        self.head.weight.mul_(scale)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] -> logits [B, C]."""
        return self.head(self.pooled(images))

    def pooled(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] -> what the head sees, [B, D]."""
        if self.use_cls:
            asking = torch.zeros(len(images), 1, dtype=torch.long, device=images.device)  # the class token alone
            return self.norm(self.run_blocks(self.embed(images), asking)[:, 0])
        return self.fc_norm(self.run_blocks(self.embed(images))[:, 1:].mean(1))


def classifier_of_size(size: str, num_classes: int = 1000, *, image_size: int = 448, **options: Any) -> Classifier:
    """The classifier of size "Ti", "S", "B" or "L"; `options` of `Classifier` go on top (drop_path_rate, patch_size, ...).

    Raises:
        UserError: for another name.
    """
    if size not in TRV_SIZES:
        raise UserError(f"there is no classifier of size {size!r}; choose one of {', '.join(TRV_SIZES)}")
    shape = TRV_SIZES[size]
    options = {"sub_ln": shape.sub_ln, **options}
    return Classifier(shape.embed_dim, shape.depth, shape.num_heads, num_classes=num_classes, image_size=image_size, **options)
