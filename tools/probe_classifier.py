#!/usr/bin/env python3
"""Score the frozen features of a student or a timm ViT: linear probe and nearest neighbours on folders of classes.

python tools/probe_classifier.py --student exported/eva02_B --train imagenet/train --val imagenet/val --num-gpus 8
python tools/probe_classifier.py --student timm:eva02_base_patch14_224.mim_in22k --train DIR --val DIR train.output_dir=runs/probe
python tools/probe_classifier.py --config-file projects/eva02_mim/configs/classification/probe_nano.py --train DIR --val DIR
"""

import argparse
from pathlib import Path

from eva02_det.launch.process_group import start
from eva02_det.utils.errors import run_tool
from eva02_mim.config import add_processes, set_up
from eva02_mim.probe import load_probe, probe, report

DEFAULT = Path(__file__).resolve().parents[1] / "projects/eva02_mim/configs/classification/probe_imagenet.py"
SHORT = {"student": "readout.source", "train": "dataloader.train.root", "val": "dataloader.validation.root"}


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="Overrides a.b.c=value come last, for example readout.pool=class dataloader.augmented_passes=10. Features stay in "
        "train.output_dir and are used again as long as nothing they depend on has changed.",
    )
    options.add_argument("--config-file", default=str(DEFAULT), metavar="FILE", help="default: the probe on ImageNet-1K")
    options.add_argument("--student", help="exported folder, checkpoint, released file, timm:NAME or timm:NAME=FILE")
    options.add_argument("--train", metavar="DIR", help="class folders to learn from")
    options.add_argument("--val", metavar="DIR", help="class folders to be scored on")
    add_processes(options)
    return options


def overrides(options: argparse.Namespace) -> list[str]:
    """Those that the short options stand for, then those given."""
    given = {key: getattr(options, option) for option, key in SHORT.items() if getattr(options, option) is not None}
    return [*(f'{key}="{value}"' for key, value in given.items()), *options.opts]


def run(options: argparse.Namespace) -> None:
    """One process."""
    config = load_probe(options.config_file, overrides(options))
    set_up(config)
    results = probe(config)
    if results is not None:
        print(report(results))


def main() -> None:
    options = parser().parse_intermixed_args()
    load_probe(options.config_file, overrides(options))  # wrong input is said before processes start
    start(run, options)


if __name__ == "__main__":
    run_tool(main)
