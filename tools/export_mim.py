#!/usr/bin/env python3
"""Export a pre-trained student: for detection and segmentation, as a model folder, or under timm's names.

python tools/export_mim.py output/pretrain/checkpoint_1040000.pt eva02_B_p14to16.pt --layout p14to16
python tools/export_mim.py output/pretrain/checkpoint_1040000.pt exported/eva02_B
python tools/export_mim.py output/pretrain/checkpoint_1040000.pt eva02_B_timm.safetensors --layout timm
"""

import argparse

from eva02_det.checkpoint.resize import METHODS
from eva02_det.utils.errors import run_tool
from eva02_mim.export import LAYOUTS, export_student


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="train.init_checkpoint of a detection config takes any of the three, and the run's own checkpoint as well.",
    )
    options.add_argument("source", help="a checkpoint of a run, or a published file: path, hf://owner/name/file or URL")
    options.add_argument("target", help="folder; with p14to16 and timm a file, .safetensors or .pt (weights under 'model')")
    options.add_argument("--layout", choices=LAYOUTS, default="folder", help="default folder: model.safetensors and config.json")
    options.add_argument("--resize", choices=METHODS, default=METHODS[0], help="of the patch kernel, with p14to16: as released")
    options.add_argument("--class-token", action="store_true", help="with timm: for a model that does not average the patches")
    options.add_argument("--num-heads", type=int, help="with folder: of a student of no published size without config.yaml")
    return options


def main() -> None:
    given = parser().parse_args()
    pooled = not given.class_token
    report = export_student(
        given.source, given.target, layout=given.layout, resize=given.resize, pooled=pooled, num_heads=given.num_heads
    )
    print("\n".join(report))


if __name__ == "__main__":
    run_tool(main)
