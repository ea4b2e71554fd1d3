"""Turns a pre-training checkpoint into what others load: a p14to16 file, a model folder, or timm's names."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from eva02_det.checkpoint.convert import convert_checkpoint
from eva02_det.checkpoint.hub import MODEL_FILE, find_file
from eva02_det.checkpoint.io import read_file, state_dict_of, write_weights
from eva02_det.checkpoint.resize import position_grid
from eva02_det.checkpoint.tables import PATCH_KERNEL, POSITIONS, ROTARY_TABLE
from eva02_det.layers.sizes import TRV_SIZES
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_json
from eva02_mim.config import CONFIG_FILE
from eva02_mim.normalise import CLIP_MEAN, CLIP_STD
from eva02_mim.student import MimStudent

LAYOUTS = ("p14to16", "folder", "timm")
DESCRIPTION = "config.json"
FORMAT = "eva02_mim student 1"
# our names -> timm's (specification 7.5)
TO_TIMM = (
    (r"\.mlp\.ffn_ln\.", ".mlp.norm."),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
SPLIT_BIAS = (r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias")  # where q, k and v are separate matrices
POOLED = (r"^norm\.", "fc_norm.")  # timm's model pools the patches first and has its norm behind that
REQUIRED = ("mask_token", "lm_head.weight", POSITIONS, PATCH_KERNEL, "blocks.0.norm1.weight")
NOT_IN_TIMM = ("mask_token", "lm_head.weight", "lm_head.bias")


def export_student(
    source: str | Path,
    target: str | Path,
    *,
    layout: str = "folder",
    resize: str = "bicubic",
    pooled: bool = True,
    num_heads: int | None = None,
) -> list[str]:
    """Write the student of `source` to `target` in another layout and return what was done, one sentence each.

    Args:
        source: a checkpoint of a run, a released file, or anything else that `find_file` knows.
        target: a folder for "folder"; else a `.safetensors` file, or any other name for a torch file with the weights under
            "model".
        layout: "p14to16" as released for detection and segmentation: patches of 16, positions of a 14 x 14 grid, all else as
            it is. "folder": model.safetensors as trained, and config.json, which `load_student` reads. "timm": the names of
            timm's Eva, without mask token and head.
        resize: of "p14to16", see `resize_patch_kernel`.
        pooled: of "timm": for its models that average the patches (its default) rather than take the class token.
        num_heads: of a "folder", where neither the run's config.yaml beside `source` nor the size tells.
    """
    if layout not in LAYOUTS:
        raise UserError(f"layout {layout!r} is unknown; choose one of {', '.join(LAYOUTS)}")
    _require_suffix(Path(target), layout)
    weights = student_weights(source)
    if layout == "p14to16":
        if "blocks.0.mlp.w3.weight" not in weights:
            raise UserError(f"{source} has GELU layers, which no detector of this project has; export it as a folder or for timm")
        return convert_checkpoint(source, target, resize=resize)
    if layout == "timm":
        named = timm_weights(weights, pooled=pooled)
        write_weights(target, named)
        return [f"{source}: {len(weights)} tensors, {len(named)} of them under timm's names", f"wrote {target}"]
    folder = Path(target)
    description = describe(weights, unseen_arguments(weights, find_file(source), num_heads))
    write_weights(folder / MODEL_FILE, weights, {"format": "pt"})
    write_json(folder / DESCRIPTION, description, indent=2)
    return [f"{source}: {len(weights)} tensors", f"wrote {folder / MODEL_FILE} and {folder / DESCRIPTION}"]


def student_weights(source: str | Path) -> dict[str, Tensor]:
    """The weights of a student, without rotary tables, which are computed; UserError for another model."""
    stored = state_dict_of(read_file(find_file(source)), source)
    lost = [key for key in REQUIRED if key not in stored]
    if lost:
        raise UserError(f"{source} is no student of masked image modelling: it has no {', '.join(lost)}")
    return {name: tensor for name, tensor in stored.items() if not re.search(ROTARY_TABLE, name)}


def timm_weights(weights: Mapping[str, Tensor], *, pooled: bool = True) -> dict[str, Tensor]:
    """A student's weights under the names of timm's Eva."""
    rules = [*TO_TIMM, *([SPLIT_BIAS] if "blocks.0.attn.q_proj.weight" in weights else []), *([POOLED] if pooled else [])]
    return {_renamed(name, rules): tensor for name, tensor in weights.items() if name not in NOT_IN_TIMM}


def describe(weights: Mapping[str, Tensor], untold: Mapping[str, Any]) -> dict[str, Any]:
    """config.json: how to build the student and what it expects to see. untold: arguments that weights do not show."""
    width, depth, patch = *shape_of(weights), weights[PATCH_KERNEL].shape[-1]
    architecture = {
        "embed_dim": width,
        "depth": depth,
        **untold,
        "patch_size": patch,
        "image_size": patch * (position_grid(weights[POSITIONS].shape[1]) or 0),
        "sub_ln": "blocks.0.mlp.ffn_ln.weight" in weights,
        "packed": "blocks.0.attn.qkv.weight" in weights,
        "feed_forward": "swiglu" if "blocks.0.mlp.w3.weight" in weights else "gelu",
        "target_dim": weights["lm_head.weight"].shape[0],
    }
    pixels = {"mean": list(CLIP_MEAN), "std": list(CLIP_STD), "interpolation": "bicubic"}
    return {"format": FORMAT, "architecture": architecture, "preprocessing": pixels}


def shape_of(weights: Mapping[str, Tensor]) -> tuple[int, int]:
    """(width, depth) of a student."""
    blocks = {int(match[1]) for key in weights if (match := re.match(r"blocks\.(\d+)\.", key))}
    return weights[POSITIONS].shape[2], len(blocks)


def load_student(folder: str | Path) -> MimStudent:
    """The student of an exported folder, with its weights; UserError where the folder is none."""
    path = Path(folder) / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged ({error}); export the student again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not of the format {FORMAT!r}; export the student with tools/export_mim.py")
    student = MimStudent(**content["architecture"])
    try:
        student.load_state_dict(read_file(find_file(folder)))
    except RuntimeError as error:
        raise UserError(f"{folder}: config.json is not of these weights ({error}); export the student again") from error
    return student


def unseen_arguments(weights: Mapping[str, Tensor], file: Path, num_heads: int | None) -> dict[str, Any]:
    """Heads as given, of the run's config beside the file, or of the published size of that shape; `rope` where it is off."""
    beside = file.parent / CONFIG_FILE
    config: Any = OmegaConf.load(beside) if beside.is_file() else {}
    student = config.get("student", {})
    shape = shape_of(weights)
    sizes = [size.num_heads for size in TRV_SIZES.values() if (size.embed_dim, size.depth) == shape]
    heads = num_heads or student.get("num_heads") or next(iter(sizes), None)
    if heads is None:
        raise UserError(f"{file}: width {shape[0]} and depth {shape[1]} are of no published size; pass --num-heads")
    return {"num_heads": int(heads), "rope": bool(student.get("rope", True))}


def _renamed(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _require_suffix(target: Path, layout: str) -> None:
    if layout == "folder" and target.suffix in {".pt", ".pth", ".safetensors"}:
        raise UserError(f"layout folder writes a folder and {target} is the name of a file; leave out its ending")
    if layout != "folder" and not target.suffix:
        raise UserError(f"layout {layout} writes a file and {target} has no ending; call it {target}.pt or {target}.safetensors")
