"""Multiply-accumulates of student and teacher, by formula; `python -m eva02_mim.flops` prints them beside Table 5.

Counted are the products of matrices: projections, attention, feed-forward layers, patch projection and head. One
multiply-accumulate is what papers of this field call one FLOP, and is two floating-point operations of a processor.
"""

import sys
from dataclasses import dataclass
from typing import Any

from torch import nn

from eva02_det.layers.sizes import TRV_SIZES
from eva02_mim.encoder import TrVEncoder
from eva02_mim.student import MimStudent

TABLE_5 = {"Ti": 1.25e9, "S": 4.58e9, "B": 17.5e9, "L": 61.5e9}  # the column of the paper, at 196 patches
TABLE_5_PATCHES = 196
BACKWARD = 2  # a backward pass costs two forward ones: gradients of inputs and of weights


@dataclass(frozen=True)
class VitShape:
    """What decides the cost of a plain vision transformer with a class token."""

    width: int
    depth: int
    ffn_hidden: int
    ffn_matrices: int = 3  # 3 for SwiGLU, 2 for the plain feed-forward layer
    patch_size: int = 14
    head_width: int = 0  # outputs of a linear head on patches

    @classmethod
    def of(cls, model: TrVEncoder) -> "VitShape":
        """The shape of an encoder or of a student."""
        mlp: Any = model.blocks[0].mlp
        gated = not hasattr(mlp, "fc1")
        last: nn.Linear = mlp.w3 if gated else mlp.fc2
        head = model.lm_head.out_features if isinstance(model, MimStudent) else 0
        matrices = 3 if gated else 2
        return cls(model.embed_dim, len(model.blocks), last.in_features, matrices, model.patch_embed.patch_size, head)

    def block_macs(self, tokens: int, asking: int | None = None) -> int:
        """One block over `tokens`, of which `asking` (default: all) attend and go through the feed-forward layer."""
        few = tokens if asking is None else asking
        keys_and_values = 2 * self.width**2 * tokens
        per_asking = 2 * self.width**2 + 2 * tokens * self.width + self.ffn_matrices * self.width * self.ffn_hidden
        return keys_and_values + per_asking * few

    def forward_macs(self, patches: int, asking: int | None = None) -> int:
        """One image. With `asking` the last block and the head compute so many patches, as a student does."""
        tokens = patches + 1
        embedding = patches * 3 * self.patch_size**2 * self.width
        blocks = (self.depth - 1) * self.block_macs(tokens) + self.block_macs(tokens, asking)
        return embedding + blocks + (patches if asking is None else asking) * self.width * self.head_width


EVA_CLIP_G = VitShape(1408, 40, 6144, ffn_matrices=2, head_width=1024)  # the teacher


def student_shape(size: str, head_width: int = 0) -> VitShape:
    """The shape of a published student."""
    shape = TRV_SIZES[size]
    return VitShape(shape.embed_dim, shape.depth, int(shape.embed_dim * 8 / 3), head_width=head_width)


def step_macs(student: VitShape, teacher: VitShape | None, patches: int = 256, slots: int | None = 105) -> int:
    """One image through one training step: the student there and back, the teacher (None: cached) there.

    `slots` hidden patches leave the last block; None computes all of it, as the released code does.
    """
    seen = student.forward_macs(patches, slots) * (1 + BACKWARD)
    return seen + (teacher.forward_macs(patches) if teacher else 0)


def report() -> str:
    """The four sizes beside the column of Table 5, and what one image of theirs costs in training."""
    teacher = _giga(EVA_CLIP_G.forward_macs(256))
    lines = [f"GMAC per image   {TABLE_5_PATCHES} patches   Table 5   student step (256)   with the teacher's {teacher}"]
    for size, published in TABLE_5.items():
        forward = student_shape(size).forward_macs(TABLE_5_PATCHES)
        student = student_shape(size, head_width=EVA_CLIP_G.head_width)
        alone, both = step_macs(student, None), step_macs(student, EVA_CLIP_G)
        lines.append(f"{size:<16} {_giga(forward):>11} {_giga(published):>9} {_giga(alone):>20} {_giga(both):>24}")
    return "\n".join(lines)


def _giga(macs: float) -> str:
    return f"{macs / 1e9:.3g}"


if __name__ == "__main__":
    sys.stdout.write(report() + "\n")
