#!/usr/bin/env python3
"""Whether machine, folder and cluster are ready for a run: findings in plain words, each with its remedy.

python tools/doctor.py                                            the machine, two ranks, SLURM, data sets that are there
python tools/doctor.py --folder /scratch/me/runs --config-file projects/eva02/configs/coco/b_1536.py --processes 8
srun --nodes 4 --ntasks-per-node 8 ... python tools/doctor.py     the ranks of a job, over its network
Ends with 0 where nothing would end a run, else with 1.
"""

import argparse
import sys
from collections.abc import Iterator

from omegaconf import DictConfig

from eva02_det.engine import doctor
from eva02_det.launch.check_folder import check_folder, write_speed
from eva02_det.launch.check_machine import check_machine
from eva02_det.launch.check_ranks import check_job_ranks, check_two_ranks
from eva02_det.launch.check_slurm import check_slurm
from eva02_det.launch.finding import FAULT, OK, Finding
from eva02_det.launch.place import find_place
from eva02_det.utils.config import load_config
from eva02_det.utils.errors import UserError, run_tool
from eva02_mim import doctor as mim


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--config-file", metavar="FILE", help="of a detector or of a pre-training: data, memory, checkpoints")
    options.add_argument("--folder", metavar="DIR", help="where runs will write: renames, locks, speed")
    options.add_argument("--processes", type=int, default=1, metavar="N", help="of the run, on each machine (default 1)")
    options.add_argument("--machines", type=int, default=1, metavar="N", help="of the run (default 1)")
    options.add_argument("--data", nargs="+", default=[], metavar="NAME", help="data sets, beside those of the config")
    options.add_argument("--no-loader", action="store_true", help="do not open the config's loader to measure its memory")
    options.add_argument("opts", nargs="*", metavar="a.b.c=value", help="overrides of the config")
    return options


def examine(options: argparse.Namespace, config: DictConfig | None) -> Iterator[Finding]:
    """All findings, one after the other."""
    yield from check_machine()
    yield from check_two_ranks()
    save_s = None
    folder = list(check_folder(options.folder)) if options.folder else []
    yield from folder
    kind = mim if config is not None and "student" in config else doctor
    if config is not None:
        yield kind.check_memory(config, options.processes * options.machines)
        if folder and FAULT not in {finding.state for finding in folder}:
            finding, save_s = doctor.check_checkpoint(kind.checkpoint_gib(config), write_speed(options.folder))
            yield finding
    if config is None or kind is doctor:
        yield from doctor.check_data([*options.data, *(doctor.names_of(config) if config is not None else ())])
    if config is not None and not options.no_loader:
        workers = int(config.dataloader.train.get("num_workers", config.dataloader.train.get("workers", 0)))
        yield doctor.check_loader(lambda: kind.open_train_loader(config), workers, options.processes)
    yield from check_slurm(save_s)


def main() -> None:
    options = parser().parse_intermixed_args()
    if options.opts and not options.config_file:
        raise UserError("overrides change a config; pass --config-file FILE too")
    config = load_config(options.config_file, options.opts) if options.config_file else None
    states = []
    if (place := find_place()) is not None:
        ranks = check_job_ranks(place)
        if place.rank:
            return
        print(*ranks.lines(), sep="\n", flush=True)
    for finding in examine(options, config):
        print(*finding.lines(), sep="\n", flush=True)
        states.append(finding.state)
    print(f"{states.count(FAULT)} faults, {states.count('warning')} warnings, {states.count(OK)} ok")
    sys.exit(1 if FAULT in states else 0)


if __name__ == "__main__":
    run_tool(main)
