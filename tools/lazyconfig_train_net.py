#!/usr/bin/env python3
"""Train or evaluate the model of a LazyConfig file: `lazyconfig_train_net.py --config-file FILE [options] [a.b.c=value ...]`."""

import argparse

from eva02_det.data.registration import require_config_datasets
from eva02_det.engine.setup import argument_parser, set_up
from eva02_det.engine.train import evaluate, train
from eva02_det.launch.process_group import start
from eva02_det.utils.config import load_config
from eva02_det.utils.errors import run_tool


def run(options: argparse.Namespace) -> None:
    """One process of the run."""
    config = load_config(options.config_file, options.opts)
    set_up(config, options)
    if options.eval_only:
        evaluate(config)
    else:
        train(config, resume=options.resume)


def main() -> None:
    options = argument_parser().parse_args()
    require_config_datasets(load_config(options.config_file, options.opts))  # wrong input is said before processes start
    start(run, options)


if __name__ == "__main__":
    run_tool(main)
