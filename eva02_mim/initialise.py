"""The two initialisations of Table 2: "jax" (Xavier, released) and "beit" (truncated normal)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eva02_det.layers.trv_block import TrVBlock

SCHEMES = ("jax", "beit")
TOKENS = ("cls_token", "mask_token", "pos_embed")
STD = 0.02  # of the tokens, and of everything in "beit"; all are cut at one standard deviation, which leaves 0.0108
# what sub-LN scales up: the matrices whose output the residual stream sees without a softmax in between
SUB_LN_SCALED = ("attn.v_proj", "attn.proj", "mlp.w1", "mlp.w2", "mlp.w3", "mlp.fc1", "mlp.fc2")
BRANCH_ENDS = ("attn.proj", "mlp.w3", "mlp.fc2")  # the last matrix of each residual branch


@torch.no_grad()
def initialise(encoder: nn.Module, scheme: str = "jax") -> None:
    """Draw all parameters of an encoder (with `patch_embed` and `blocks`) anew.

    Both: tokens and positions normal(0.02) cut at one sigma; norms 1 and 0; biases of linear layers, q and v 0.
    jax: linear matrices Xavier normal over the matrix as it is stored, so that packed ones get less; the patch kernel Xavier
        uniform as a matrix [D, 3 p^2] and its bias uniform +-1/sqrt(3 p^2). With sub-LN, v, the output projection
        and the feed-forward matrices are then scaled by sqrt(ln(2 depth)).
    beit: linear matrices and the patch kernel like the tokens, the patch bias 0, the last matrix of both
        branches of block i (from 1) divided by sqrt(2 i).

    Raises:
        ValueError: for another scheme.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"initialisation {scheme!r} is unknown; choose one of {', '.join(SCHEMES)}")
    for name in TOKENS:
        if isinstance(getattr(encoder, name, None), nn.Parameter):
            _cut_normal(getattr(encoder, name))
    for module in encoder.modules():
        _initialise_module(module, scheme)
    parts: Any = encoder
    kernel, bias = parts.patch_embed.proj.weight, parts.patch_embed.proj.bias
    if scheme == "jax":
        nn.init.xavier_uniform_(kernel.flatten(1))
        bound = kernel[0].numel() ** -0.5
        nn.init.uniform_(bias, -bound, bound)
        _scale_for_sub_ln(parts.blocks)
    else:
        _cut_normal(kernel)
        nn.init.zeros_(bias)
        _scale_with_depth(parts.blocks)


def _initialise_module(module: nn.Module, scheme: str) -> None:
    if isinstance(module, nn.Linear):
        if scheme == "jax":
            nn.init.xavier_normal_(module.weight)
        else:
            _cut_normal(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    for name in ("q_bias", "v_bias"):
        if isinstance(getattr(module, name, None), nn.Parameter):
            nn.init.zeros_(getattr(module, name))


def _cut_normal(parameter: Tensor) -> None:
    nn.init.trunc_normal_(parameter, std=STD, a=-STD, b=STD)


def _scale_for_sub_ln(blocks: Sequence[Any]) -> None:
    """Where there is a norm inside the feed-forward layer: times sqrt(ln(2 depth)), 1.78 for B and 1.97 for L."""
    gain = math.sqrt(math.log(2 * len(blocks)))
    for block in blocks:
        if isinstance(block.mlp.ffn_ln, nn.LayerNorm):
            for matrix in _named(block, SUB_LN_SCALED):
                matrix.mul_(gain)


def _scale_with_depth(blocks: Sequence[Any]) -> None:
    for number, block in enumerate(blocks, start=1):
        for matrix in _named(block, BRANCH_ENDS):
            matrix.div_(math.sqrt(2 * number))


def _named(block: TrVBlock, names: tuple[str, ...]) -> list[Tensor]:
    """The matrices of a block that carry one of the names."""
    return [module.weight for name, module in block.named_modules() if name in names]
