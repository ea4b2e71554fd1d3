"""Image towers that a teacher is made of, all seen alike: normalised images to tokens of the patches, and a projection of these.

Axes: B images, N patches (row by row), W width of the tower, D width of the features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eva02_det.checkpoint.hub import find_file
from eva02_det.checkpoint.io import read_file, state_dict_of
from eva02_det.layers.pick import pick
from eva02_det.utils.errors import UserError
from eva02_mim.last_block import with_last_block
from eva02_mim.normalise import CLIP_MEAN, CLIP_STD

Rgb = tuple[float, float, float]

EVA_CLIP_G = "eva_giant_patch14_clip_224.laion400m"  # timm's name of the published teacher, EVA01-CLIP-g/14
HEADS = ("head.weight", "visual.head.weight", "visual.trunk.head.weight")  # [D, W]
OPENAI_HEADS = ("visual.proj", "proj")  # [W, D]: files of the first CLIP, whose names timm translates
CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


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


@dataclass(frozen=True)
class Wanted:
    """What to build of a network. `project`: with its head on every patch; `options`: arguments of the network's constructor."""

    project: bool = True
    image_size: int | None = None
    options: Mapping[str, Any] | None = None


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


class TimmTokens(nn.Module):
    """Patch tokens of a timm ViT after its final norm, wherever that sits: [B, 3, S, S] -> [B, N, W]."""

    trunk: Any  # what a timm ViT offers, its class does not say

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.last = (with_last_block(trunk),)  # a tuple: it is a part of the trunk already

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.trunk.forward_features(images)[:, self.trunk.num_prefix_tokens :]
        return self.trunk.fc_norm(tokens)  # holds the final norm where the network averages the tokens, else nothing

    def of_patches(self, images: Tensor, index: Tensor) -> Tensor:
        """Tokens of the patches `index` [B, K] alone: [B, K, W]."""
        last = self.last[0]
        if last is None:
            return pick(self(images), index)
        last.asked = index + self.trunk.num_prefix_tokens
        try:
            return self.trunk.fc_norm(self.trunk.forward_features(images))
        finally:
            last.asked = None


class ClipTokens(nn.Module):
    """Patch tokens of open_clip's own ViT after its final norm: [B, 3, S, S] -> [B, N, W]."""

    visual: Any

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        found = self.visual.forward_intermediates(
            images, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
        )
        return found["image_intermediates"][0]


class MatrixProjection(nn.Module):
    """Tokens times a matrix [W, D]."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix.detach())

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens @ self.matrix


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


def timm_tower(architecture: str, source: str | Path | None, wanted: Wanted) -> Tower:
    """A timm model with the weights of `source`; of its own published file where that is None.

    The file may hold the vision tower alone or a whole CLIP (`visual.`, `visual.trunk.`), bare or nested ("module", ...).
    Every key of the vision tower must fit. The network is built with a head exactly where the file holds one.
    """
    timm = known_to_timm(architecture)
    path = find_file(source if source is not None else published_file(architecture))
    weights = state_dict_of(read_file(path), path)
    classes = head_width(weights)
    options = dict(wanted.options or {})
    if wanted.image_size is not None:
        options["img_size"] = wanted.image_size
    overlay = {"state_dict": weights, "num_classes": classes}
    try:
        trunk = timm.create_model(architecture, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=classes, **options)
    except (RuntimeError, KeyError) as error:
        raise UserError(f"checkpoint {path} is not one of {architecture}: {one_line(error)}; name its architecture") from error
    config = trunk.pretrained_cfg
    for kept in (config, trunk.default_cfg):
        kept.pop("state_dict", None)  # or the file's copy of the weights lived as long as the teacher
    return replace(tower_of_timm(trunk, architecture, wanted.project), mean=tuple(config["mean"]), std=tuple(config["std"]))


def timm_outline(architecture: str, wanted: Wanted) -> Tower:
    """A timm model as a tower without memory for its weights: its sizes, before they are loaded."""
    timm = known_to_timm(architecture)
    size = {} if wanted.image_size is None else {"img_size": wanted.image_size}
    with torch.device("meta"):
        trunk = timm.create_model(architecture, pretrained=False, **size, **(wanted.options or {}))
    return tower_of_timm(trunk, architecture, wanted.project)


def known_to_timm(architecture: str) -> Any:
    """timm, which has a model of that name; UserError where it has none."""
    timm = imported("timm", "timm")
    if not timm.is_model(architecture):
        raise UserError(f"timm has no model {architecture}; see timm.list_models('*patch14*') and ('*patch16*') for its ViTs")
    return timm


def tower_of_timm(trunk: Any, name: str, project: bool) -> Tower:
    """A timm ViT as a tower; the head leaves the network and becomes the projection."""
    embed = getattr(trunk, "patch_embed", None)
    if not all(hasattr(trunk, part) for part in ("num_prefix_tokens", "fc_norm", "forward_features")) or embed is None:
        raise UserError(f"{name} is a {type(trunk).__name__}, not a plain ViT with one token a patch; choose a ViT as teacher")
    projection: Any = trunk.head if project else nn.Identity()
    if project and (isinstance(projection, nn.Identity) or getattr(trunk, "attn_pool", None) is not None):
        raise UserError(f"{name} has no projection that single patches can go through; pass project=False for its tokens")
    trunk.head = nn.Identity()
    if getattr(trunk, "attn_pool", None) is not None:
        trunk.attn_pool = None
    dim: int = projection.out_features if project else trunk.num_features
    patch, image = square(embed.patch_size, name), square(embed.img_size, name)
    return Tower(name, TimmTokens(trunk), projection, dim=dim, patch_size=patch, image_size=image)


def open_clip_tower(name: str, tag: str, wanted: Wanted) -> Tower:
    """The image tower of an open_clip model; `tag` names published weights or is a local file. The text tower is let go."""
    open_clip = imported("open_clip", "open_clip_torch")
    if name not in open_clip.list_models():
        raise UserError(f"open_clip has no model {name}; see open_clip.list_models()")
    published = open_clip.get_pretrained_cfg(name, tag)
    if not published and not Path(tag).is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise UserError(f"open_clip has no weights {tag} of {name} and there is no such file; published are {tags}")
    path = clip_file(published) if published else Path(tag)
    state_dict_of(read_file(path), path)  # says in one sentence what is no checkpoint
    options = {**(wanted.options or {}), "force_image_size": wanted.image_size, "force_quick_gelu": "quick_gelu" in published}
    try:
        model = open_clip.create_model(name, pretrained=str(path), **options)
    except (RuntimeError, KeyError) as error:
        raise UserError(f"checkpoint {path} is not one of {name}: {one_line(error)}; name its model") from error
    visual = model.visual
    tower = tower_of_clip(visual, f"{name}/{tag}", wanted.project)
    mean, std = published.get("mean", visual.image_mean), published.get("std", visual.image_std)
    return replace(tower, mean=tuple(mean or CLIP_MEAN), std=tuple(std or CLIP_STD))


def tower_of_clip(visual: Any, name: str, project: bool) -> Tower:
    """open_clip's image tower, whether it wraps a timm model or is its own ViT."""
    if hasattr(visual, "trunk"):
        if not len(visual.head):
            return tower_of_timm(visual.trunk, name, project)
        tower = tower_of_timm(visual.trunk, name, project=False)
        if not project:
            return tower
        if hasattr(visual.head, "pool"):
            raise UserError(f"{name} pools the tokens before its projection; pass project=False for the tokens")
        linear = [layer for layer in visual.head.modules() if isinstance(layer, nn.Linear)]
        return replace(tower, projection=visual.head, dim=linear[-1].out_features)
    if not hasattr(visual, "ln_post") or (project and (visual.proj is None or visual.attn_pool is not None)):
        raise UserError(
            f"{name} is a {type(visual).__name__} without a projection that single patches can go through; choose a plain ViT"
            f"{', or pass project=False' if hasattr(visual, 'ln_post') else ''}"
        )
    projection = MatrixProjection(visual.proj) if project else nn.Identity()
    dim = visual.proj.shape[1] if project else visual.ln_post.normalized_shape[0]
    visual.proj = None
    patch, image = square(visual.patch_size, name), square(visual.image_size, name)
    return Tower(name, ClipTokens(visual), projection, dim=dim, patch_size=patch, image_size=image)


def published_file(architecture: str) -> str:
    """Where the published weights of a timm model are, as `find_file` reads it."""
    import timm

    config = timm.get_pretrained_cfg(architecture)
    if config is not None and config.hf_hub_id:
        return f"hf://{config.hf_hub_id}/{config.hf_hub_filename or 'model.safetensors'}"
    if config is not None and config.url:
        return str(config.url)
    raise UserError(
        f"timm knows no published weights of {architecture}; pass the path of a file and architecture={architecture!r}"
    )


def clip_file(published: Mapping[str, Any]) -> Path:
    """The local file of weights that open_clip lists."""
    repository, _, file = str(published.get("hf_hub", "")).rpartition("/")
    if not repository:
        return find_file(published["url"])
    try:
        return find_file(f"hf://{repository}/{file or CLIP_FILES[0]}")
    except UserError:
        if file:
            raise
    return find_file(f"hf://{repository}/{CLIP_FILES[1]}")


def head_width(weights: Mapping[str, Tensor]) -> int:
    """Width D of the projection in a file; 0: it holds none."""
    rows = (len(weights[key]) for key in HEADS if key in weights)
    columns = (weights[key].shape[1] for key in OPENAI_HEADS if key in weights)
    return next(rows, next(columns, 0))


def imported(module: str, package: str) -> Any:
    """An optional package, or what to install."""
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UserError(f"this teacher needs {package}, which is not installed; run `pip install {package}`") from error


def square(size: Any, name: str) -> int:
    """One number of a side given once or twice."""
    sides = set(size) if isinstance(size, tuple | list) else {size}
    if len(sides) != 1 or None in sides:
        raise UserError(f"{name} has patches or images of {size} px; a teacher needs square ones of a fixed size")
    return int(sides.pop())


def one_line(error: BaseException, most: int = 300) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= most else f"{text[:most]}..."
