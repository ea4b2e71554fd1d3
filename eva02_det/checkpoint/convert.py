"""Rewrites a checkpoint: the backbone for patches of 16, or a detector without what its training left in the file."""

from pathlib import Path

from torch import Tensor

from eva02_det.checkpoint.hub import find_file
from eva02_det.checkpoint.io import read_file, state_dict_of, write_weights
from eva02_det.checkpoint.layouts import layout_of
from eva02_det.checkpoint.resize import position_grid, resize_patch_kernel, resize_position_table
from eva02_det.checkpoint.tables import PATCH_KERNEL, POSITIONS
from eva02_det.checkpoint.zoo import read_zoo_pickle
from eva02_det.utils.errors import UserError

PATCH_PX, POSITION_GRID = 16, 14  # an image of 224 in patches of 16


def convert_checkpoint(source: str | Path, target: str | Path, *, which: str = "model", resize: str = "bicubic") -> list[str]:
    """Write the weights of `source` to `target` and return what was done, one sentence each.

    Weights of a backbone get our names, a patch kernel of 16 x 16 and positions of a 14 x 14 grid, as in the released
    p14to16 files; all else is copied. Weights of a detector are copied; of a model zoo pickle (.pkl), the arrays. No object
    beside tensors is accepted but argparse.Namespace.

    Args:
        target: `.safetensors`, or any other name for a torch file with the weights under "model".
        which: "model", or "ema" for averaged weights.
        resize: see `resize_patch_kernel`.
    """
    path = find_file(source)
    content = read_zoo_pickle(path) if path.suffix == ".pkl" else read_file(path, allow_namespace=True)
    weights = state_dict_of(content, source, which)
    layout = layout_of(weights.keys())
    article = "an" if layout.name.startswith("EVA") else "a"
    report = [f"{source} holds {article} {layout.name}, {len(weights)} tensors"]
    if layout.backbone:
        weights = {layout.canonical(key): tensor for key, tensor in weights.items()}
        report += _to_patch_16(weights, str(source), resize)
    write_weights(target, weights)
    return [*report, f"wrote {target}"]


def _to_patch_16(weights: dict[str, Tensor], origin: str, method: str) -> list[str]:
    """Resize kernel and positions in place; what was done."""
    report = []
    kernel, table = weights[PATCH_KERNEL], weights.get(POSITIONS)
    if kernel.dim() != 4 or kernel.shape[2] != kernel.shape[3]:
        raise UserError(f"checkpoint {origin}: {PATCH_KERNEL} {list(kernel.shape)} is no kernel of a square patch")
    if kernel.shape[-1] != PATCH_PX:
        weights[PATCH_KERNEL] = resize_patch_kernel(kernel, PATCH_PX, method)
        report.append(f"{PATCH_KERNEL}: {list(kernel.shape)} -> {list(weights[PATCH_KERNEL].shape)}, {method}")
    if table is None:
        return report
    grid = position_grid(table.shape[1]) if table.dim() == 3 else None
    if grid is None:
        raise UserError(f"checkpoint {origin}: {POSITIONS} {list(table.shape)} is no table of a square of positions")
    if grid != POSITION_GRID:
        weights[POSITIONS] = resize_position_table(table, POSITION_GRID**2 + table.shape[1] - grid**2)
        report.append(f"{POSITIONS}: {list(table.shape)} -> {list(weights[POSITIONS].shape)}, bicubic")
    return report
