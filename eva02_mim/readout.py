"""One feature vector of an image from a frozen network: a student of pre-training, or any timm ViT to compare it with.

Axes: B images, T tokens (class and register tokens first), N patches, W width, S pixels of a side.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eva02_det.checkpoint.hub import find_file
from eva02_det.checkpoint.resize import resize_position_table
from eva02_det.utils.errors import UserError
from eva02_mim.encoder import TrVEncoder
from eva02_mim.export import DESCRIPTION, describe, load_student, student_weights, unseen_arguments
from eva02_mim.normalise import CLIP_MEAN, CLIP_STD, Normalise
from eva02_mim.teacher import TIMM
from eva02_mim.towers import Rgb, TimmTokens, Wanted, timm_tower

POOLS = ("mean", "class")
NORMS = ("tokens", "pooled", "none")
HEAD_ONLY = ("mask_token", "lm_head.weight", "lm_head.bias")  # of a student, beside its encoder
CONVERTED = (16, 14)  # patch and grid of a p14to16 file, whose angles still span the 16 positions of pre-training
PRETRAINED_GRID = 16


@dataclass(frozen=True)
class Network:
    """A network and where its tokens and its final norm are."""

    tokens: nn.Module  # normalised images [B, 3, S, S] -> [B, T, W] before the final norm
    norm: nn.Module
    prefix: int  # tokens before those of the patches
    class_token: bool  # the first of them is one
    width: int
    image_size: int
    mean: Rgb = CLIP_MEAN
    std: Rgb = CLIP_STD


class Readout(nn.Module):
    """uint8 images [B, 3, S, S] -> features [B, W] in fp32, without gradients.

    Args:
        about: what identifies the network beside its weights.
        pool: "mean" of the patches' tokens, or the "class" token. A student of masked image modelling is taught on patches
            only, so the mean is the default.
        norm: "tokens": the network's final norm on every token, then the pooling; "pooled": the norm behind the pooling, as
            in fine-tuning; "none": as the last block leaves them.
    """

    def __init__(self, network: Network, about: dict[str, Any], *, pool: str = "mean", norm: str = "tokens") -> None:
        super().__init__()
        if pool not in POOLS:
            raise UserError(f"readout.pool={pool} is not one of {', '.join(POOLS)}")
        if norm not in NORMS:
            raise UserError(f"readout.norm={norm} is not one of {', '.join(NORMS)}")
        if pool == "class" and not network.class_token:
            raise UserError("readout.pool=class, but this network has no class token; set readout.pool=mean")
        self.pool, self.order, self.prefix = pool, norm, network.prefix
        self.width, self.image_size = network.width, network.image_size
        self.about = {**about, "pool": pool, "norm": norm, "mean": list(network.mean), "std": list(network.std)}
        self.tokens, self.norm = network.tokens, network.norm
        self.normalise = Normalise(network.mean, network.std)
        self.requires_grad_(False).eval()

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        tokens = self.tokens(self.normalise(images)).float()
        if self.order == "tokens":
            tokens = self.norm(tokens)
        pooled = tokens[:, 0] if self.pool == "class" else tokens[:, self.prefix :].mean(1)
        return (self.norm(pooled) if self.order == "pooled" else pooled).float()

    def train(self, mode: bool = True) -> "Readout":
        """Stays in eval mode."""
        return super().train(False)


class EncoderTokens(nn.Module):
    """Tokens of an encoder before its final norm: [B, 3, S, S] -> [B, 1 + N, W]."""

    def __init__(self, encoder: TrVEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder.run_blocks(self.encoder.embed(images))


def load_readout(
    source: str | Path,
    *,
    image_size: int | None = None,
    pool: str = "mean",
    norm: str = "tokens",
    num_heads: int | None = None,
    rotary_grid: int | None = None,
) -> Readout:
    """The frozen network that features are read from.

    Args:
        source: an exported folder, a checkpoint of a run or a released file of a student, as `export_student` takes them; or
            `timm:NAME` with the published weights, `timm:NAME=FILE` with those of a file.
        image_size: px, where it is not the network's own: its positions are stretched.
        pool, norm: see `Readout`.
        num_heads, rotary_grid: of a student in a file, where neither the run's config.yaml beside it nor the size tells.
    """
    name = str(source)
    if name.startswith(TIMM):
        network, about = _timm_network(name.removeprefix(TIMM), image_size), {"network": name.partition("=")[0]}
    else:
        encoder = read_student(source, image_size=image_size, num_heads=num_heads, rotary_grid=rotary_grid)
        network, about = _student_network(encoder), {"network": "student", **_angles(encoder)}
    return Readout(network, about, pool=pool, norm=norm)


def read_student(
    source: str | Path, *, image_size: int | None = None, num_heads: int | None = None, rotary_grid: int | None = None
) -> TrVEncoder:
    """The encoder of a student, with its weights, for images of `image_size` px (None: those it was pre-trained on).

    For another size the positions are stretched bicubically and the rotary angles span the grid of pre-training.
    """
    if (Path(source) / DESCRIPTION).is_file():
        student = load_student(source)
        weights, untold = student.state_dict(), {"num_heads": student.embed_dim // student.head_dim, "rope": student.rope}
    else:
        weights = student_weights(source)
        untold = unseen_arguments(weights, find_file(source), num_heads)
    architecture = describe(weights, untold)["architecture"]
    del architecture["target_dim"]
    patch, grid = architecture["patch_size"], architecture["image_size"] // architecture["patch_size"]
    span = rotary_grid or (PRETRAINED_GRID if (patch, grid) == CONVERTED else grid)
    encoder = TrVEncoder(**{**architecture, "image_size": image_size or architecture["image_size"]}, rotary_grid=span)
    kept = {name: tensor.float() for name, tensor in weights.items() if name not in HEAD_ONLY}
    kept["pos_embed"] = resize_position_table(kept["pos_embed"], encoder.positions.rows)
    try:
        encoder.load_state_dict(kept)
    except RuntimeError as error:
        raise UserError(f"{source} is no student of masked image modelling: {' '.join(str(error).split())[:300]}") from error
    return encoder


def _angles(encoder: TrVEncoder) -> dict[str, Any]:
    """What an encoder computes with beside its weights."""
    return {"head_dim": encoder.head_dim, "rope": encoder.rope, "rotary_grid": encoder.positions.rotary_grid}


def _student_network(encoder: TrVEncoder) -> Network:
    norm, encoder.norm = encoder.norm, nn.Identity()  # or the norm would be in two places
    return Network(EncoderTokens(encoder), norm, 1, True, encoder.embed_dim, encoder.image_size)


def _timm_network(name: str, image_size: int | None) -> Network:
    """A timm ViT without its head; its final norm sits behind the tokens or, in models that average them, behind the mean."""
    architecture, _, file = name.partition("=")
    tower = timm_tower(architecture, file or None, Wanted(project=False, image_size=image_size))
    trunk: Any = tower.tokens.trunk if isinstance(tower.tokens, TimmTokens) else None
    if not hasattr(trunk, "norm"):
        raise UserError(f"timm:{architecture} has no final norm to read features behind; choose a plain ViT")
    norm = trunk.fc_norm if isinstance(trunk.norm, nn.Identity) else trunk.norm
    trunk.norm, trunk.fc_norm = nn.Identity(), nn.Identity()
    token = getattr(trunk, "cls_token", None) is not None
    tokens = _Features(trunk)
    return Network(tokens, norm, trunk.num_prefix_tokens, token, tower.dim, tower.image_size, tower.mean, tower.std)


class _Features(nn.Module):
    """All tokens of a timm ViT: [B, 3, S, S] -> [B, T, W]."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> Tensor:
        trunk: Any = self.trunk
        return trunk.forward_features(images)
