#!/usr/bin/env python3
"""Train or evaluate the model of a LazyConfig file: `lazyconfig_train_net.py --config-file FILE [options] [a.b.c=value ...]`.

--eval-only --model DIR evaluates an exported model; --data FILE --images DIR trains on annotations in COCO's format;
--dry-run says what a run would do and need before any GPU is used.
"""

import argparse

from eva02_det.data.registration import require_config_datasets
from eva02_det.engine.dry_run import dry_run
from eva02_det.engine.setup import argument_parser, configure, set_up
from eva02_det.engine.train import evaluate, train
from eva02_det.launch.process_group import processes, start
from eva02_det.utils.errors import run_tool


def run(options: argparse.Namespace) -> None:
    """One process of the run."""
    config, said = configure(options)
    set_up(config, options, said)
    if options.eval_only:
        evaluate(config)
    else:
        train(config, resume=options.resume)


def main() -> None:
    options = argument_parser().parse_args()
    config, said = configure(options)  # wrong input is said before processes start
    if options.dry_run:
        print("\n".join([*said, dry_run(config, processes(options))]))
        return
    require_config_datasets(config, training=not options.eval_only)
    start(run, options)


if __name__ == "__main__":
    run_tool(main)
