#!/usr/bin/env python3
"""Train or evaluate the model of a LazyConfig file: `lazyconfig_train_net.py --config-file FILE [options] [a.b.c=value ...]`."""

import argparse

import eva02_det  # noqa: F401  chooses the provider of detectron2
from detectron2.engine import default_argument_parser, default_setup

from eva02_det.data.registration import require_config_datasets
from eva02_det.engine.train import evaluate, train
from eva02_det.launch.process_group import start
from eva02_det.utils.config import load_config
from eva02_det.utils.errors import run_tool


def run(options: argparse.Namespace) -> None:
    """One process of the run."""
    config = load_config(options.config_file, options.opts)
    default_setup(config, options)
    if options.eval_only:
        evaluate(config)
    else:
        train(config, resume=options.resume)


def main() -> None:
    options = default_argument_parser().parse_args()
    require_config_datasets(load_config(options.config_file, options.opts))  # wrong input is said before processes start
    start(run, options)


if __name__ == "__main__":
    run_tool(main)
