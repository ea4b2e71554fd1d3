#!/usr/bin/env python3
"""Fine-tune an encoder as a classifier on class folders: `finetune_classifier.py --config-file FILE [options] [a.b.c=value ...]`.

python tools/finetune_classifier.py --config-file projects/eva02_mim/configs/classification/nano.py --data ROOT
torchrun --nnodes 4 --nproc-per-node 8 ... tools/finetune_classifier.py --config-file .../b_in1k_448.py --resume \
    train.init_checkpoint=eva02_B_pt_in21k_p14.pt
python tools/finetune_classifier.py --config-file .../b_in1k_448.py --eval-only train.init_checkpoint=best.pt --variant v2=FOLDER
"""

import argparse

from eva02_det.launch.process_group import processes, start
from eva02_det.utils.errors import run_tool
from eva02_mim import finetune_build as build
from eva02_mim.config import set_up
from eva02_mim.finetune import finetune
from eva02_mim.finetune_eval import evaluate_checkpoint


def run(options: argparse.Namespace) -> None:
    """One process of the run."""
    config = build.load_recipe(options)
    set_up(config)
    if options.eval_only:
        evaluate_checkpoint(config, build.variants_of(options))
    else:
        finetune(config, resume=options.resume)


def main() -> None:
    options = build.finetune_parser().parse_intermixed_args()  # options and overrides in any order
    config = build.load_recipe(options)  # wrong input is said before processes start
    build.variants_of(options)
    if options.dry_run:
        print(build.describe(config, processes(options)))
        return
    start(run, options)


if __name__ == "__main__":
    run_tool(main)
