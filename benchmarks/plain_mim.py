"""One pre-training step written down as the published code describes it: what eva02_mim's step is measured against.

The teacher keeps fp32 weights that autocast casts anew in every step; two fp32 images of equal content; hidden patches by boolean
index; every block and the final norm over all tokens; separate projections, rotation by interleaved copies.

Axes: B images, N patches, M hidden patches of the batch, C channels of a head, D width of the features.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain_trv import interleave
from eva02_det.layers.attention import math_attention
from eva02_mim.groups import decay_groups
from eva02_mim.student import MimStudent


@dataclass
class PlainStep:
    """Forward, backward, clipping, update. `teacher` is a timm ViT, `student` holds the weights."""

    student: MimStudent
    teacher: nn.Module
    optimizer: torch.optim.Optimizer
    precision: torch.dtype
    clip_norm: float = 3.0
    scores: bool = False  # all attention scores in memory, for want of a fused kernel

    def __call__(self, for_student: Tensor, for_teacher: Tensor, mask: Tensor) -> float:
        """Normalised images [B, 3, S, S] twice, mask [B, N] bool, True = hidden; the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        kind, low = for_student.device.type, self.precision != torch.float32
        with torch.no_grad(), torch.autocast(kind, self.precision, low):
            tokens = self.teacher.forward_features(for_teacher)
            targets = self.teacher.head(tokens[:, 1:])[mask]
        with torch.autocast(kind, self.precision, low):
            predictions = plain_predictions(self.student, for_student, mask, self.scores)
        loss = -F.cosine_similarity(predictions.float(), targets.float(), dim=-1).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), self.clip_norm)
        self.optimizer.step()
        return loss.item()


def plain_predictions(student: MimStudent, images: Tensor, mask: Tensor, scores: bool = False) -> Tensor:
    """[B, 3, S, S] and [B, N] bool -> [M, D]."""
    patches = student.patch_embed.proj(images).flatten(2).transpose(1, 2)
    patches = patches * student.patch_gradient + patches.detach() * (1 - student.patch_gradient)
    hidden = mask[..., None].type_as(patches)
    patches = patches * (1 - hidden) + student.mask_token * hidden
    z = torch.cat((student.cls_token.expand(len(images), -1, -1), patches), 1) + student.pos_embed
    cos, sin = tables(student.grid, student.head_dim, images.device)
    for block in student.blocks:
        z = z + attend(block.attn, block.norm1(z), cos, sin, scores)
        x = block.norm2(z)
        z = z + block.mlp.w3(block.mlp.ffn_ln(F.silu(block.mlp.w1(x)) * block.mlp.w2(x)))
    return student.lm_head(student.norm(z)[:, 1:][mask])


def tables(side: int, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every patch, [N, C] each: rows, then columns, every angle for two neighbours."""
    frequencies = 10000.0 ** (-torch.arange(channels // 4, device=device) / (channels // 4))
    angles = torch.outer(torch.arange(side, device=device).float(), frequencies).repeat_interleave(2, 1)
    both = torch.cat((angles.repeat_interleave(side, 0), angles.repeat(side, 1)), 1)
    return both.cos(), both.sin()


def attend(attn: nn.Module, x: Tensor, cos: Tensor, sin: Tensor, scores: bool) -> Tensor:
    """[B, 1 + N, W] -> the same; the class token does not turn."""
    projections = ((attn.q_proj, attn.q_bias), (attn.k_proj, None), (attn.v_proj, attn.v_bias))
    q, k, v = (F.linear(x, p.weight, bias).unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for p, bias in projections)
    q, k = (torch.cat((t[:, :, :1], t[:, :, 1:] * cos + interleave(t[:, :, 1:]) * sin), 2).type_as(v) for t in (q, k))
    attention = math_attention if scores else F.scaled_dot_product_attention
    return attn.proj(attention(q, k, v).transpose(1, 2).reshape(x.shape))


def adamw(model: nn.Module, *, fused: bool) -> torch.optim.AdamW:
    """The recipe's optimiser, for both sides."""
    return torch.optim.AdamW(decay_groups(model, weight_decay=0.05), lr=1.5e-3, betas=(0.9, 0.98), eps=1e-6, fused=fused)
