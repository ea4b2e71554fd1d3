"""The frozen network whose features of the patches the student predicts.

Axes: B images, N patches (row by row), D width of the features, S pixels of a side.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from eva02_det.layers.attention import RotaryAttention, math_attention
from eva02_det.layers.pick import pick
from eva02_det.utils.errors import UserError
from eva02_mim.compiling import require_compiler
from eva02_mim.normalise import Normalise
from eva02_mim.towers import EVA_CLIP_G, Rgb, Tower, Wanted, open_clip_tower, seeded_tower, timm_tower

logger = logging.getLogger(__name__)

TIMM, OPEN_CLIP = "timm:", "open_clip:"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Teacher(Protocol):
    """Images [B, 3, S, S] -> features [B, N, D] of every patch, hidden from the student or not.

    uint8 images are normalised with the teacher's own `mean` and `std` (of pixels in [0, 1]); floating-point ones are taken
    as normalised with them already. No gradient flows back. The features come in the precision the teacher computes in.
    """

    dim: int
    patch_size: int
    image_size: int
    mean: Rgb
    std: Rgb

    def __call__(self, images: Tensor) -> Tensor: ...


class FrozenTeacher(nn.Module):
    """A tower with its weights stored once in the precision it computes in; always in eval mode, never with gradients.

    Args:
        tower: the network.
        dtype: "bf16", "fp16" or "fp32". The rest of the step may run under autocast: the teacher does not, so that no weight
            is cast again in every step.
        resize: crops of another size than the tower's are resized to it, bicubic and anti-aliased, instead of refused:
            a tower of stride 16 at 256 px sees the 16 x 16 patches of a student of stride 14 at 224 px.
    """

    def __init__(self, tower: Tower, *, dtype: str = "bf16", device: str | torch.device = "cpu", resize: bool = False) -> None:
        super().__init__()
        if dtype not in PRECISIONS:
            raise UserError(f"dtype={dtype!r} is not a precision of the teacher; choose one of {', '.join(PRECISIONS)}")
        self.name, self.dtype, self.resize = tower.name, PRECISIONS[dtype], resize
        self.dim, self.patch_size, self.image_size = tower.dim, tower.patch_size, tower.image_size
        self.mean, self.std = tower.mean, tower.std
        self.normalise = Normalise(tower.mean, tower.std).to(device)
        self.tokens = tower.tokens.to(device, self.dtype)
        self.projection = tower.projection.to(device, self.dtype)
        self.requires_grad_(False).eval()
        if self.device.type == "cpu" and self.dtype == torch.bfloat16:
            choose_scores(self.tokens)

    @property
    def device(self) -> torch.device:
        return next(self.tokens.parameters()).device

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stays in eval mode, whatever the model around it does."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] uint8 or normalised -> [B, N, D]."""
        return self._features(images, self.tokens)

    def of_patches(self, images: Tensor, index: Tensor) -> Tensor:
        """Features of the patches `index` [B, K] alone, [B, K, D]: equal to those of `forward`, for less work if possible."""
        asked = getattr(self.tokens, "of_patches", None)
        return pick(self(images), index) if asked is None else self._features(images, partial(asked, index=index))

    def _features(self, images: Tensor, tokens_of: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            with torch.inference_mode():
                tokens = tokens_of(self._prepared(images).to(self.dtype))
            with torch.no_grad():  # outside of inference mode, whose tensors the loss could not keep for its backward pass
                return tokens.clone() if isinstance(self.projection, nn.Identity) else self.projection(tokens)

    def _prepared(self, images: Tensor) -> Tensor:
        pixels = self.normalise(images) if images.dtype == torch.uint8 else images
        side = self.image_size
        if pixels.shape[-2:] == (side, side):
            return pixels
        if not self.resize:
            height, width = pixels.shape[-2:]
            raise UserError(
                f"teacher {self.name} sees {side} x {side} px and was given {height} x {width}; crop to {side} px, or pass "
                f"resize=True"
            )
        return nn.functional.interpolate(pixels.float(), (side, side), mode="bicubic", antialias=True)


class SeededTeacher(FrozenTeacher):
    """A small ViT with random weights from a seed: a teacher for tests and machines without the real one."""

    def __init__(
        self,
        dim: int = 64,
        *,
        width: int = 64,
        depth: int = 2,
        num_heads: int = 2,
        image_size: int = 224,
        patch_size: int = 14,
        seed: int = 0,
        dtype: str = "fp32",
        device: str | torch.device = "cpu",
    ) -> None:
        tower = seeded_tower(
            dim, width=width, depth=depth, num_heads=num_heads, image_size=image_size, patch_size=patch_size, seed=seed
        )
        super().__init__(tower, dtype=dtype, device=device)


def load_teacher(
    source: str | Path,
    *,
    architecture: str = EVA_CLIP_G,
    project: bool = True,
    image_size: int | None = None,
    resize: bool = False,
    dtype: str = "bf16",
    device: str | torch.device = "cpu",
    compiled: bool = False,
    options: Mapping[str, Any] | None = None,
) -> FrozenTeacher:
    """A published or local ViT as teacher; the default of the recipes is `timm:eva_giant_patch14_clip_224.laion400m`.

    Args:
        source: `timm:<model name>` or `open_clip:<model name>/<tag or file>`, from the hub's cache or the hub; or a local
            file, model folder, `hf://owner/name/file` or URL with weights of the timm model `architecture`.
        project: features after the head that maps a CLIP's class token into the space it shares with texts, applied to
            every patch, as published; False: the tokens after the final norm.
        image_size: pixels of a side that the network is built for, where it is not its own size.
        compiled: torch.compile, for one batch size.
        options: further arguments of the network's constructor.

    Raises:
        UserError: in one sentence, also where a file is not cached and the hub is out of reach.
    """
    name, wanted = str(source), Wanted(project, image_size, options)
    if name.startswith(OPEN_CLIP):
        model, _, tag = name.removeprefix(OPEN_CLIP).partition("/")
        tower = open_clip_tower(model, tag, wanted)
    elif name.startswith(TIMM):
        tower = timm_tower(name.removeprefix(TIMM), None, wanted)
    else:
        tower = timm_tower(architecture, source, wanted)
    teacher = FrozenTeacher(tower, dtype=dtype, device=device, resize=resize)
    if compiled:
        compile_blocks(teacher)
    logger.info(
        "teacher %s: %.1f million weights in %s, %d features of each of %d x %d patches",
        *(teacher.name, sum(weight.numel() for weight in teacher.parameters()) / 1e6, dtype, teacher.dim),
        *(teacher.image_size // teacher.patch_size,) * 2,
    )
    return teacher


def choose_scores(network: nn.Module) -> None:
    """Attention with all scores in memory, in timm's networks and ours.

    In bf16 on a CPU, with a few hundred tokens, it takes a third of the time of torch's fused kernel.
    """
    for module in network.modules():
        if isinstance(module, RotaryAttention):
            module.kernel = math_attention
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", False)  # noqa: B010  no attribute that nn.Module declares


def compile_blocks(teacher: FrozenTeacher) -> None:
    """torch.compile of every block but the last, which may be asked for some tokens; equal blocks share the code."""
    require_compiler(teacher.device)
    for block in list(getattr(getattr(teacher.tokens, "trunk", teacher.tokens), "blocks", ()))[:-1]:
        block.compile(dynamic=False)


def features_of(teacher: Teacher, images: Tensor, index: Tensor) -> Tensor:
    """Features of the patches `index` [B, K], [B, K, D]: computed for them alone where the teacher can."""
    asked = getattr(teacher, "of_patches", None)
    return asked(images, index) if asked else pick(teacher(images), index)


def check_teacher(teacher: Teacher, *, target_dim: int, image_size: int, patch_size: int) -> None:
    """UserError unless the teacher's features have the width and the grid of what the student predicts."""
    name = getattr(teacher, "name", type(teacher).__name__)
    if teacher.dim != target_dim:
        raise UserError(
            f"teacher {name} gives features of width {teacher.dim} and the student predicts {target_dim}; set the student's "
            f"target_dim to {teacher.dim} or take another teacher"
        )
    theirs, ours = teacher.image_size // teacher.patch_size, image_size // patch_size
    if theirs != ours:
        raise UserError(
            f"teacher {name} sees {theirs} x {theirs} patches ({teacher.image_size} px, stride {teacher.patch_size}) and the "
            f"student {ours} x {ours} ({image_size} px, stride {patch_size}); give the teacher "
            f"image_size={ours * teacher.patch_size}{'' if ours * teacher.patch_size == image_size else ' and resize=True'}, "
            f"or the student another patch_size"
        )
    if teacher.image_size != image_size and not getattr(teacher, "resize", False):
        raise UserError(
            f"teacher {name} sees {teacher.image_size} px and the crops have {image_size}; pass resize=True to the teacher, "
            f"which then resizes them"
        )


def fingerprint(teacher: nn.Module) -> str:
    """SHA-256 of a teacher's weights and of how it sees an image: what its features depend on. Seconds for a billion weights."""
    digest = hashlib.sha256()
    for field in ("dim", "patch_size", "image_size", "mean", "std", "resize"):
        digest.update(f"{field}={getattr(teacher, field, None)};".encode())
    for name, tensor in sorted(teacher.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
