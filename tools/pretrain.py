#!/usr/bin/env python3
"""Pre-train a student by masked image modelling: `pretrain.py --config-file FILE [options] [a.b.c=value ...]`.

python tools/pretrain.py --config-file projects/eva02_mim/configs/b_in21k.py --num-gpus 8 dataloader.train.source.spec=/data/in21k
torchrun --nnodes 8 --nproc-per-node 8 ... tools/pretrain.py --config-file projects/eva02_mim/configs/l_merged38m.py --resume
"""

import argparse

from eva02_det.launch.process_group import processes, start
from eva02_det.utils.errors import run_tool
from eva02_mim.config import argument_parser, load_recipe, set_up
from eva02_mim.dry_run import describe
from eva02_mim.train import train


def run(options: argparse.Namespace) -> None:
    """One process of the run."""
    config = load_recipe(options.config_file, options.opts)
    set_up(config)
    train(config, resume=options.resume)


def main() -> None:
    options = argument_parser().parse_intermixed_args()  # options and overrides in any order
    config = load_recipe(options.config_file, options.opts)  # wrong input is said before processes start
    if options.dry_run:
        print(describe(config, processes(options)))
        return
    start(run, options)


if __name__ == "__main__":
    run_tool(main)
