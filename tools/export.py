#!/usr/bin/env python3
"""Write a trained detector as a model folder (weights, config.json, model card), or its backbone as an ONNX file, or both.

python tools/export.py --config-file CONFIG.py --checkpoint output/model_final.pth --out my_model [protocol=NAME a.b.c=value ...]
python tools/export.py --config-file CONFIG.py --checkpoint output/model_final.pth --out my_model --onnx --size 1024x1024
"""

import argparse
import logging
from pathlib import Path

from eva02_det.contamination import leak_card
from eva02_det.engine.export import export_model
from eva02_det.engine.model_folder import load_folder
from eva02_det.engine.onnx import export_onnx
from eva02_det.utils.errors import UserError, run_tool

ONNX_FILE = "backbone_{height}x{width}.onnx"


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--config-file", metavar="FILE", help="config of the detector")
    options.add_argument("--checkpoint", metavar="FILE", help="its weights: a file, hf://owner/name/file")
    options.add_argument("--model", metavar="DIR", help="a model folder, to write its backbone as ONNX only")
    options.add_argument("--out", metavar="DIR", required=True, help="folder to write to")
    options.add_argument("--ema", action=argparse.BooleanOptionalAction, help="averaged weights (default: as the config says)")
    options.add_argument("--classes", metavar="FILE", help="class names: COCO-style JSON, or a text file with one name a line")
    options.add_argument(
        "--leak-card", metavar="FILE", action="append", default=[], help="leak_card.json to put there, repeatable"
    )
    options.add_argument("--onnx", action="store_true", help="also write backbone and pyramid as ONNX and check them")
    options.add_argument(
        "--size", metavar="HxW", help="input of the ONNX file in px (default: the square that images are padded to)"
    )
    options.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for the training tool, protocol=NAME among them")
    return options


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of --size."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdigit() and int(side) for side in sides):
        raise UserError(f"--size {text} is no height x width in px; write for example --size 1024x1024")
    return int(sides[0]), int(sides[1])


def main() -> None:
    chosen = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    source, out = chosen.model or chosen.out, Path(chosen.out)
    size = size_of(chosen.size) if chosen.size else None
    if chosen.config_file and chosen.checkpoint and not chosen.model:
        for card in chosen.leak_card:
            leak_card.read(card)  # what is wrong with it is said before anything is written
        more = {"overrides": chosen.overrides, "classes": chosen.classes, "ema": chosen.ema}
        export_model(chosen.config_file, chosen.checkpoint, out, **more)
        leak_card.attach(chosen.leak_card, out)
        print(f"{out}: model folder")
    elif not (chosen.model and chosen.onnx) or chosen.config_file or chosen.checkpoint or chosen.overrides:
        raise UserError("give --config-file FILE and --checkpoint FILE, or --model DIR with --onnx")
    if chosen.onnx:
        description = load_folder(source)
        height, width = size or [description.architecture.backbone.get("square_pad", 0)] * 2
        target = out / ONNX_FILE.format(height=height, width=width)
        check = export_onnx(description.load(source), target, height=height, width=width)
        errors = ", ".join(f"{name} {error:.1e}" for name, error in check.errors.items())
        print(f"{target}: differs from torch by {errors} of the largest value of each map")


if __name__ == "__main__":
    run_tool(main)
