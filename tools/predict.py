#!/usr/bin/env python3
"""Detect objects in pictures, folders and videos: annotated copies and COCO JSON, from a model folder or a checkpoint.

python tools/predict.py street.jpg holiday/ film.mp4 --model my_model --out predictions
python tools/predict.py holiday/ --config-file projects/eva02/configs/coco/nano_320.py --checkpoint output/model_final.pth
"""

import argparse
import logging
import sys

from PIL import Image

from eva02_det import Predictor
from eva02_det.engine.images import Inputs, Pixels, find_inputs
from eva02_det.engine.predict_files import FilesRun, Summary
from eva02_det.engine.predictor import Prediction
from eva02_det.engine.tta import scales_of
from eva02_det.report.draw import draw_found
from eva02_det.utils.errors import UserError, run_tool


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("inputs", nargs="+", metavar="PATH", help="pictures, videos, or folders of them")
    options.add_argument("--model", metavar="DIR", help="model folder that tools/export.py wrote")
    options.add_argument("--config-file", metavar="FILE", help="config of the detector; with --checkpoint, in place of --model")
    options.add_argument("--checkpoint", metavar="FILE", help="its weights")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of the config, repeatable")
    options.add_argument("--classes", metavar="FILE", help="class names for --checkpoint: COCO-style JSON, or one name a line")
    options.add_argument("--out", metavar="DIR", default="predictions", help="folder to write to (default predictions)")
    options.add_argument("--score-threshold", type=float, default=0.5, help="least score to draw and list (default 0.5; 0: all)")
    options.add_argument("--batch-size", type=int, default=1, help="pictures or frames that go through the model together")
    options.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N")
    options.add_argument("--protocol", metavar="NAME", help="test protocol in place of the model's: plain, coco_system, ...")
    options.add_argument("--tta", action="store_true", help="test-time augmentation: look at several sizes, mirrored too")
    options.add_argument("--tta-scales", metavar="PX,PX", help="--tta with these long sides, for example 1280,1536,1792")
    options.add_argument("--ema", action=argparse.BooleanOptionalAction, help="averaged weights (default: as the config says)")
    options.add_argument("--limit", type=int, help="at most so many pictures, and so many frames of each video")
    return options


def predictor(chosen: argparse.Namespace) -> Predictor:
    common = {name: getattr(chosen, name) for name in ("device", "protocol", "score_threshold", "batch_size")}
    common["tta"] = scales_of(chosen.tta_scales) if chosen.tta_scales else chosen.tta
    if chosen.model and not (chosen.config_file or chosen.checkpoint or chosen.set or chosen.classes or chosen.ema is not None):
        return Predictor.from_folder(chosen.model, **common)
    if chosen.model or not (chosen.config_file and chosen.checkpoint):
        raise UserError(
            "give either --model DIR alone, or --config-file FILE with --checkpoint FILE; "
            "--set, --classes and --ema belong to the second, a model folder has its own"
        )
    more = {"overrides": chosen.set, "classes": chosen.classes, "ema": chosen.ema}
    return Predictor.from_config(chosen.config_file, chosen.checkpoint, **more, **common)


def paint(pixels: Pixels, found: Prediction, keep_size: bool) -> Image.Image:
    return draw_found(pixels, found.boxes, found.labels, found.names, found.scores, found.masks, keep_size=keep_size)


def report(summary: Summary, inputs: Inputs, out: str) -> None:
    print(*summary.remarks, sep="\n", end="\n" if summary.remarks else "")
    if inputs.others:
        print(f"left alone by their names: {len(inputs.others)} files, first {inputs.others[0]}")
    print(f"{summary.objects} objects in {summary.pictures} pictures and {summary.frames} frames; see {out}")
    for line in summary.unreadable:
        print(f"not read: {line}", file=sys.stderr)


def main() -> None:
    chosen = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    inputs = find_inputs(chosen.inputs, without=chosen.out)
    summary = FilesRun(predictor(chosen), chosen.out, paint=paint, limit=chosen.limit)(inputs)
    report(summary, inputs, chosen.out)
    sys.exit(1 if summary.unreadable else 0)


if __name__ == "__main__":
    run_tool(main)
