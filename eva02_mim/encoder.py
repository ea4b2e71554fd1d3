"""The encoder that is pre-trained: a plain vision transformer of TrV blocks with a class token and a square input.

Axes: B images, N = grid * grid patches, K picked patches, D width, C channels of one head.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eva02_det.layers.attention import RotaryAttention
from eva02_det.layers.drop_path import drop_path_rates
from eva02_det.layers.patch_embed import PatchEmbed, Positions
from eva02_det.layers.rope import rotary_table
from eva02_det.layers.swiglu import Mlp, SwiGLU
from eva02_det.layers.trv_block import TrVBlock
from eva02_det.utils.errors import UserError

FEED_FORWARDS = ("swiglu", "gelu")


def token_table(grid: int, head_dim: int, span: float, device: torch.device) -> Tensor:
    """Rotary (cos, sin) of the class token, which does not turn, and of the grid: [1 + N, C / 2, 2] in fp32."""
    still = torch.tensor([1.0, 0.0], device=device).expand(1, head_dim // 2, 2)
    return torch.cat((still, rotary_table((grid, grid), head_dim, span=span, device=device)))


@lru_cache(maxsize=16)
def cached_table(grid: int, head_dim: int, span: float, device: torch.device) -> Tensor:
    """`token_table`, computed once."""
    with torch.inference_mode(False):  # a table first needed in inference must serve training later
        return token_table(grid, head_dim, span, device)


class TrVEncoder(nn.Module):
    """Patches, class token, learned positions, blocks with rotary positions, a final norm. Released parameter names.

    Args:
        patch_size, image_size: in pixels; the image is square and its side a multiple of the patch.
        sub_ln: a norm inside the feed-forward layer (B, L). Without it, q, k, v and both SwiGLU matrices are stored
            packed (Ti, S), unless `packed` says otherwise.
        drop_path_rate: of the last block; rises linearly from 0 at the first.
        rotary_grid: positions that a side spans for the angles; None: one for each patch, as in pre-training. An
            encoder for larger images keeps the grid it was pre-trained on (16).
        patch_gradient: factor on the gradient that reaches the patch projection; 0 freezes it.
        attention: the kernel, see `attention_kernel`.
        feed_forward: "swiglu" with 8/3 of the width, or "gelu" with 4 times the width (Table 2).
        rope: False leaves the learned positions alone (Table 2).
        use_act_checkpoint: recompute the blocks in the backward pass.
    """

    def __init__(
        self,
        embed_dim: int,
        depth: int,
        num_heads: int,
        *,
        patch_size: int = 14,
        image_size: int = 224,
        sub_ln: bool = True,
        packed: bool | None = None,
        drop_path_rate: float = 0.0,
        rotary_grid: int | None = None,
        patch_gradient: float = 1.0,
        attention: str = "sdpa",
        feed_forward: str = "swiglu",
        rope: bool = True,
        use_act_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        _require_shape(embed_dim, num_heads, patch_size, image_size, feed_forward)
        self.embed_dim, self.head_dim = embed_dim, embed_dim // num_heads
        self.image_size, self.grid = image_size, image_size // patch_size
        self.positions = Positions(self.grid, rotary_grid=self.grid if rotary_grid is None else rotary_grid)
        self.patch_gradient, self.rope, self.use_act_checkpoint = patch_gradient, rope, use_act_checkpoint
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.positions.rows, embed_dim))
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        packed = not sub_ln if packed is None else packed
        self.blocks = nn.ModuleList(
            TrVBlock(
                RotaryAttention(embed_dim, num_heads, kernel=attention, packed=packed),
                _feed_forward(feed_forward, embed_dim, sub_ln, packed),
                dim=embed_dim,
                drop_path=rate,
            )
            for rate in drop_path_rates(drop_path_rate, depth)
        )
        self.norm: nn.Module = nn.LayerNorm(embed_dim, eps=1e-6)

    @property
    def num_patches(self) -> int:
        """N."""
        return self.grid**2

    def embed(self, images: Tensor, mask_token: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Normalised images [B, 3, S, S] -> tokens before the first block, [B, 1 + N, D], the class token first.

        Where `mask` [B, N] is True, `mask_token` [1, 1, D] stands for the patch; it still gets the position.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            height, width = images.shape[-2:]
            raise UserError(
                f"the encoder was built for images of {self.image_size} x {self.image_size} px and got {height} x {width}; "
                "crop them to that size or build it with image_size set"
            )
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        if self.patch_gradient != 1:
            # the value is the first argument exactly: what is added to it is 0 times the factor
            frozen = patches.detach()
            patches = torch.lerp(frozen, patches, self.patch_gradient) if self.patch_gradient else frozen
        if mask is not None and mask_token is not None:
            patches = torch.where(mask[..., None], mask_token, patches)
        tokens = torch.cat((self.cls_token.expand(len(patches), -1, -1), patches), 1)
        return tokens + self.pos_embed

    def run_blocks(self, tokens: Tensor, asking: Tensor | None = None) -> Tensor:
        """All blocks, [B, 1 + N, D] -> the same, without the final norm.

        With `asking` [B, K] (the class token is 0) the last block computes those tokens only: [B, K, D].
        """
        table = self.table(tokens.device) if self.rope else None
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            wanted = asking if i == last else None
            if self.use_act_checkpoint and self.training:
                tokens = checkpoint(block, tokens, table, None, wanted, use_reentrant=False)
            else:
                tokens = block(tokens, table, None, wanted)
        return tokens

    def encode(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, S, S] -> features after the final norm, [B, 1 + N, D], the class token first."""
        return self.norm(self.run_blocks(self.embed(images)))

    def table(self, device: torch.device) -> Tensor:
        """Rotary table [1 + N, C / 2, 2]: computed, never saved, and fp32 whatever the precision of the model."""
        build = token_table if torch.compiler.is_compiling() else cached_table
        return build(self.grid, self.head_dim, self.positions.rotary_grid, device)


def _feed_forward(kind: str, dim: int, sub_ln: bool, packed: bool) -> nn.Module:
    if kind == "gelu":
        return Mlp(dim, 4 * dim, sub_ln=sub_ln)
    return SwiGLU(dim, int(dim * 8 / 3), sub_ln=sub_ln, packed=packed)


def _require_shape(embed_dim: int, num_heads: int, patch_size: int, image_size: int, feed_forward: str) -> None:
    if embed_dim % num_heads or embed_dim // num_heads % 4:
        raise UserError(f"{embed_dim} channels in {num_heads} heads: heads need a whole multiple of 4 channels")
    if image_size % patch_size or image_size < patch_size:
        raise UserError(f"image_size={image_size} px is no multiple of patch_size={patch_size} px; change one of them")
    if feed_forward not in FEED_FORWARDS:
        raise UserError(f"feed_forward={feed_forward!r} is unknown; choose one of {', '.join(FEED_FORWARDS)}")
