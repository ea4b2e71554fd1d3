"""Networks that turn a picture into one vector: timm's, open_clip's, TorchScript files, and our own backbones.

Axes: B images, S pixels of a side, D numbers of a vector.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eva02_det.checkpoint.hub import find_file
from eva02_det.checkpoint.io import read_file, state_dict_of
from eva02_det.checkpoint.load import Choice, load_content
from eva02_det.checkpoint.resize import position_grid
from eva02_det.layers.sizes import TRV_SIZES
from eva02_det.modeling.vit import Positions, TrV
from eva02_det.utils.errors import UserError

Rgb = tuple[float, float, float]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TIMM, OPEN_CLIP = "timm/", "open_clip/"
SCRIPTED_SIZE_PX = 288  # of the published copy-detection networks in TorchScript (SSCD), which take other sizes as well
OWN_SIZE_PX = 224
PATCH = re.compile(r"^(.*)patch_embed\.proj\.weight$")


@dataclass(frozen=True)
class Network:
    """A network and what it expects to see: squares of `size` px, normalised."""

    forward: Callable[[Tensor], Tensor]  # [B, 3, S, S] -> [B, D]
    size: int
    mean: Rgb = IMAGENET_MEAN
    std: Rgb = IMAGENET_STD


def open_network(spec: str, device: str | torch.device, size: int | None) -> Network:
    """See `open_embedder`."""
    if spec.startswith(TIMM):
        return _timm(spec, device, size)
    if spec.startswith(OPEN_CLIP):
        return _open_clip(spec, device, size)
    scripted = _scripted(Path(spec), device) if Path(spec).is_file() else None
    if scripted is not None:
        return Network(scripted, size or SCRIPTED_SIZE_PX)
    return _own(spec, device, size)


def _imported(module: str, package: str) -> Any:
    try:
        return __import__(module)
    except ImportError as error:
        raise UserError(f"these embeddings need `pip install {package}`; fingerprints need nothing") from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def _timm(spec: str, device: str | torch.device, size: int | None) -> Network:
    timm, name = _imported("timm", "timm"), spec.removeprefix(TIMM)
    if not timm.is_model(name):
        raise UserError(f"timm has no model {name}; see timm.list_models(pretrained=True)")
    weights = read_file(find_file(spec))
    overlay = {"state_dict": state_dict_of(weights, spec)}
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError) as error:
        raise UserError(f"the weights of {spec} do not fit the model: {_first_line(error)}; update timm") from error
    config = model.pretrained_cfg
    wanted = size or config["input_size"][-1]
    return Network(_ready(model, device), wanted, tuple(config["mean"]), tuple(config["std"]))


def _open_clip(spec: str, device: str | torch.device, size: int | None) -> Network:
    open_clip = _imported("open_clip", "open_clip_torch")
    name, _, tag = spec.removeprefix(OPEN_CLIP).partition(":")
    if name not in open_clip.list_models():
        raise UserError(f"open_clip has no model {name}; see open_clip.list_models()")
    tags = open_clip.list_pretrained_tags_by_model(name)
    tag = tag or (tags[0] if tags else "")
    if tag not in tags and not Path(tag).is_file():
        raise UserError(f"open_clip has no weights {tag or 'at all'} of {name}; published are {', '.join(tags) or 'none'}")
    quick = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu")) if tag in tags else False
    try:
        model = open_clip.create_model(name, pretrained=tag, force_image_size=size, force_quick_gelu=quick)
    except (RuntimeError, KeyError, OSError) as error:
        raise UserError(
            f"{spec} cannot be loaded: {_first_line(error)}; fetch its weights first, or pass the path of a file"
        ) from error
    visual = model.visual
    mean, std = visual.image_mean or CLIP_MEAN, visual.image_std or CLIP_STD
    side = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
    return Network(_ready(visual, device), side, tuple(mean), tuple(std))


def _ready(model: nn.Module, device: str | torch.device) -> nn.Module:
    return model.requires_grad_(False).eval().to(device)


def _scripted(path: Path, device: str | torch.device) -> nn.Module | None:
    """A TorchScript file's network; None where the file is none. Its operations are torch's: it holds no Python code."""
    try:
        return torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError:
        return None


class PatchMean(nn.Module):
    """Mean of a TrV backbone's features over the patches, each normalised: [B, 3, S, S] -> [B, D]."""

    def __init__(self, backbone: TrV) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        (features,) = self.backbone(images).values()
        return nn.functional.layer_norm(features.flatten(2).transpose(1, 2), features.shape[1:2]).mean(1)


def _own(spec: str, device: str | torch.device, size: int | None) -> Network:
    """A checkpoint of ours, of pre-training or of a detector, released or exported: its TrV backbone."""
    weights = state_dict_of(read_file(find_file(spec)), spec)
    prefix = next((found[1] for found in map(PATCH.match, weights) if found), None)
    if prefix is None:
        raise UserError(f"{spec} holds no vision transformer of ours; give timm/NAME, open_clip/NAME or a TorchScript file")
    weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    backbone = backbone_of(weights, spec)
    load_content(backbone, weights, spec, Choice(remedy="give a checkpoint of this project's TrV"))
    wanted = size or OWN_SIZE_PX
    return Network(_ready(PatchMean(backbone), device), wanted, CLIP_MEAN, CLIP_STD)


def backbone_of(weights: Mapping[str, Tensor], spec: str) -> TrV:
    """A TrV, every block global, of the shape that the weights have."""
    width, patch = weights["patch_embed.proj.weight"].shape[0], weights["patch_embed.proj.weight"].shape[-1]
    depth = 1 + max((int(key.split(".")[1]) for key in weights if re.match(r"blocks\.\d+\.", key)), default=-1)
    if not depth:
        raise UserError(f"{spec} holds no blocks of a transformer; give a checkpoint of this project's TrV")
    table = weights.get("pos_embed")
    rows = 0 if table is None else table.shape[1]
    grid = position_grid(rows) if rows else None
    return TrV(
        width,
        depth,
        _heads(Path(spec), width, depth),
        patch_size=patch,
        global_block_indexes=range(depth),
        sub_ln="blocks.0.mlp.ffn_ln.weight" in weights,
        positions=Positions(grid, cls_token=grid is not None and rows > grid * grid, rotary_grid=grid or 16),
    )


def _heads(source: Path, width: int, depth: int) -> int:
    """Number of heads, which weights do not show: as config.json beside them says, or as the size of that shape has."""
    about = (source if source.is_dir() else source.parent) / "config.json"
    if about.is_file():
        told = _found(json.loads(about.read_text(encoding="utf-8")), "num_heads", width)
        if told:
            return told
    known = [size.num_heads for size in TRV_SIZES.values() if (size.embed_dim, size.depth) == (width, depth)]
    return known[0] if known else max(width // 64, 1)


def _found(tree: Any, key: str, width: int) -> int | None:
    """The value of `key` in the part of a tree of plain JSON that has this width."""
    if isinstance(tree, dict):
        if tree.get("embed_dim") == width and isinstance(tree.get(key), int):
            return tree[key]
        tree = list(tree.values())
    if isinstance(tree, list):
        return next((told for told in (_found(part, key, width) for part in tree) if told), None)
    return None
