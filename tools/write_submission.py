#!/usr/bin/env python3
"""Write what a test server takes, boxes and masks apart, from one pass of a model or from predictions that are there; check it.

python tools/write_submission.py --name NAME --out submission --model my_model --num-gpus 8
python tools/write_submission.py --name NAME --out submission --config-file CONFIG.py --model output/model_final.pth
python tools/write_submission.py --name NAME --out submission --predictions output/inference [--half b]
The data set is coco_2017_test-dev unless --dataset says otherwise; with --predictions it is theirs. More options and
a.b.c=value are those of lazyconfig_train_net.py. Ends with 0 where what was written has no fault, else 1.
"""

import argparse
import sys
from pathlib import Path

from eva02_det.data.registration import require_datasets
from eva02_det.engine.setup import argument_parser, configure, set_up
from eva02_det.engine.submission import Submission, find, overrides
from eva02_det.evaluation.halves import HALVES
from eva02_det.evaluation.rules import TASKS
from eva02_det.evaluation.submission import BOX_DECIMALS
from eva02_det.launch.process_group import start
from eva02_det.utils.errors import UserError, run_tool


def parser() -> argparse.ArgumentParser:
    options = argument_parser()
    options.description, options.epilog = (__doc__ or "").splitlines()[0], None
    options.add_argument("--name", metavar="NAME", required=True, help="of the algorithm, in the names of the files")
    options.add_argument("--out", metavar="DIR", required=True, type=Path, help="folder to write to")
    options.add_argument("--dataset", metavar="NAME", default="coco_2017_test-dev", help="for example lvis_v1_val")
    options.add_argument("--predictions", metavar="DIR", help="output folder of an evaluation, in place of a model")
    options.add_argument(
        "--task", dest="tasks", action="append", choices=TASKS, help="default: boxes, and masks if there are some"
    )
    options.add_argument("--per-image", type=int, help="most detections of an image; default: what the server takes")
    options.add_argument("--box-decimals", type=int, default=BOX_DECIMALS, help="of box coordinates; default: %(default)s")
    options.add_argument("--half", choices=HALVES, help="only one of two fixed halves of the images")
    return options


def submission_of(options: argparse.Namespace) -> Submission:
    more = {name: getattr(options, name) for name in ("tasks", "per_image", "box_decimals", "half")}
    return Submission(options.out, options.name, **more)


def publish(folder: str | Path, options: argparse.Namespace) -> None:
    """Write, check, say what came of it."""
    written, checked = submission_of(options).write(folder)
    print(*(one.sentence() for one in written), sep="\n")
    print(*(line for one in checked for line in one.lines()), sep="\n")
    sys.exit(1 if any(one.faults for one in checked) else 0)


def run(options: argparse.Namespace) -> None:
    """One process of the run."""
    config, said = configure(options)
    set_up(config, options, said)
    if (folder := find(config)) is not None:
        publish(folder, options)


def main() -> None:
    options = parser().parse_args()
    if options.predictions:
        if options.model or options.config_file:
            raise UserError("--predictions are of a model that has run; leave out --model and --config-file")
        return publish(options.predictions, options)
    if not options.model:
        raise UserError("give --model, a model folder or, with --config-file, a checkpoint; or --predictions DIR")
    options.eval_only, options.opts = True, [*overrides(options.dataset, options.out), *options.opts]
    require_datasets(configure(options)[0].dataloader.test.dataset.names)  # the training set need not be there
    start(run, options)


if __name__ == "__main__":
    run_tool(main)
