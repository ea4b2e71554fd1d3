#!/usr/bin/env python3
"""Convert a checkpoint: a backbone to patches of 16, a detector or a model zoo pickle to weights alone.

python tools/convert_checkpoint.py eva02_L_pt_m38m_p14.pt eva02_L_pt_m38m_p14to16.pt
python tools/convert_checkpoint.py timm/eva02_base_patch14_224.mim_in22k eva02_B_p14to16.safetensors --resize pseudo_inverse
python tools/convert_checkpoint.py eva02_L_coco_det_sys_o365.pth averaged.safetensors --weights ema
"""

import argparse

from eva02_det.checkpoint.convert import convert_checkpoint
from eva02_det.checkpoint.resize import METHODS
from eva02_det.utils.errors import run_tool


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="Loading resizes a backbone by itself; converting it first saves nothing but that second. The files are read as "
        "tensors only; of other objects, only argparse.Namespace, which has no code to run, is let through here.",
    )
    options.add_argument("source", help="a file, a model folder, hf://owner/name/file, timm/<model name> or a URL")
    options.add_argument("target", help="file to write: .safetensors, or .pt/.pth with the weights under 'model'")
    options.add_argument("--weights", choices=("model", "ema"), default="model", help="raw or averaged weights (default model)")
    options.add_argument(
        "--resize",
        choices=METHODS,
        default=METHODS[0],
        help="patch kernels: as released (default), or keeping the response to a resized image",
    )
    return options


def main() -> None:
    arguments = parser().parse_args()
    report = convert_checkpoint(arguments.source, arguments.target, which=arguments.weights, resize=arguments.resize)
    print("\n".join(report))


if __name__ == "__main__":
    run_tool(main)
