"""The EVA-02 vision transformer as a detectron2 backbone: windowed and global blocks, any input size.

Axes: B images, N = rows * cols tokens, D width, C channels of one head.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eva02_det.layers.attention import RotaryAttention
from eva02_det.layers.drop_path import drop_path_rates
from eva02_det.layers.patch_embed import PatchEmbed, Positions, ResizedPositions, resize_positions
from eva02_det.layers.rope import rotary_table
from eva02_det.layers.swiglu import SwiGLU
from eva02_det.layers.trv_block import TrVBlock
from eva02_det.layers.windows import WindowOrder, window_order


@dataclass(frozen=True)
class Layout:
    """All that a token grid alone decides: the window order and the rotary tables [N, C / 2, 2] of both kinds of block."""

    order: WindowOrder
    global_table: Tensor
    window_table: Tensor


def grid_layout(grid: tuple[int, int], window: int, head_dim: int, span: float, device: torch.device) -> Layout:
    """Built from numbers only; every window starts again at position (0, 0)."""
    order = window_order(grid, window, device)
    inside = rotary_table((window, window), head_dim, span=span, device=device)
    return Layout(order, rotary_table(grid, head_dim, span=span, device=device), order.tile(inside))


@lru_cache(maxsize=32)
def _cached_layout(grid: tuple[int, int], window: int, head_dim: int, span: float, device: torch.device) -> Layout:
    with torch.inference_mode(False):  # tables first needed in inference must serve training later
        return grid_layout(grid, window, head_dim, span, device)


class TrV(Backbone):
    """Plain vision transformer of EVA-02, released parameter names, no norm after the last block.

    Every block whose index is not in `global_block_indexes` attends inside windows of `window_size` patches. Images of
    any size are accepted: zeros are added right and below up to a multiple of the patch, so the map has
    ceil(height / patch_size) rows. On a grid that is not square, rows and columns each span the learned positions.
    """

    def __init__(
        self,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        *,
        patch_size: int = 16,
        window_size: int = 16,
        global_block_indexes: Collection[int] = (2, 5, 8, 11),
        sub_ln: bool = True,
        drop_path_rate: float = 0.0,
        positions: Positions = Positions(),  # noqa: B008  frozen
        attention: str = "sdpa",
        use_act_checkpoint: bool = False,
        out_feature: str = "last_feat",
    ) -> None:
        super().__init__()
        _require_shape(embed_dim, num_heads, window_size)
        self.window_size, self.head_dim, self.positions = window_size, embed_dim // num_heads, positions
        self.use_act_checkpoint = use_act_checkpoint
        self.global_block_indexes = tuple(sorted(global_block_indexes))
        self._runs = _runs_of_blocks(depth, global_block_indexes)
        has_table = positions.pretrain_grid is not None
        self.pos_embed = nn.Parameter(torch.zeros(1, positions.rows, embed_dim)) if has_table else None
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.blocks = nn.ModuleList(
            TrVBlock(
                RotaryAttention(embed_dim, num_heads, kernel=attention),
                SwiGLU(embed_dim, int(embed_dim * 8 / 3), sub_ln=sub_ln),
                dim=embed_dim,
                drop_path=rate,
            )
            for rate in drop_path_rates(drop_path_rate, depth)
        )
        self._resized_positions = ResizedPositions()
        self._out_features = [out_feature]
        self._out_feature_channels = {out_feature: embed_dim}
        self._out_feature_strides = {out_feature: patch_size}
        self._initialise()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images [B, 3, height, width] -> {out_feature: [B, D, rows, cols]}."""
        tokens, grid = self._embed(images)
        layout = self._layout(grid, tokens.device)
        for windowed, blocks in self._runs:  # in one frame: another would keep its own input alive through a whole run
            windows, table = (layout.order, layout.window_table) if windowed else (None, layout.global_table)
            tokens = layout.order.to_windows(tokens) if windowed else tokens
            for i in blocks:
                tokens = self._block(i, tokens, table, windows)
            tokens = layout.order.to_grid(tokens) if windowed else tokens
        return {self._out_features[0]: tokens.transpose(1, 2).unflatten(2, grid)}

    def _embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Patches with their places, [B, N, D], and the grid they form."""
        patches = self.patch_embed(images)
        grid = (patches.shape[2], patches.shape[3])
        tokens = patches.flatten(2).transpose(1, 2)
        return (tokens if self.pos_embed is None else tokens + self._position_embedding(grid)), grid

    def _block(self, index: int, tokens: Tensor, table: Tensor, windows: WindowOrder | None) -> Tensor:
        if self.use_act_checkpoint and self.training:
            return checkpoint(self.blocks[index], tokens, table, windows, use_reentrant=False)
        return self.blocks[index](tokens, table, windows)

    def _position_embedding(self, grid: tuple[int, int]) -> Tensor:
        """[1, N, D]."""
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return resize_positions(self.pos_embed, grid)
        return self._resized_positions(self.pos_embed, grid)

    def _layout(self, grid: tuple[int, int], device: torch.device) -> Layout:
        build = grid_layout if torch.compiler.is_compiling() else _cached_layout
        return build(grid, self.window_size, self.head_dim, self.positions.rotary_grid, device)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Linear weights and the position table: normal(0.02), truncated; biases 0. Norms and patch projection: as torch does."""
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _require_shape(embed_dim: int, num_heads: int, window_size: int) -> None:
    if embed_dim % num_heads or embed_dim // num_heads % 4:
        raise ValueError(f"{embed_dim} channels in {num_heads} heads: heads need a whole multiple of 4 channels")
    if window_size < 1:
        raise ValueError(f"window_size={window_size} holds no patch; for no windows name every block as global")


def _runs_of_blocks(depth: int, global_blocks: Collection[int]) -> tuple[tuple[bool, range], ...]:
    """Consecutive blocks of one kind: (windowed, indexes)."""
    outside = sorted(set(global_blocks) - set(range(depth)))
    if outside:
        raise ValueError(f"global_block_indexes names {outside}, but the blocks are 0 to {depth - 1}")
    runs = []
    for windowed, members in groupby(range(depth), key=lambda i: i not in global_blocks):
        indexes = list(members)
        runs.append((windowed, range(indexes[0], indexes[-1] + 1)))
    return tuple(runs)
