#!/usr/bin/env python3
"""Pre-training and what it is good for, in one command: a teacher, a student of it, and a detector with and without the student.

python projects/from_mim_to_detector/run.py                    # one seed
python projects/from_mim_to_detector/run.py --seeds 0 1 2
"""

import argparse
import importlib.util
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the project's own modules, which no package holds

from eva02_det.utils.errors import UserError, run_tool
from eva02_det.utils.files import write_json
from projects.from_mim_to_detector.chain import Chain, Plan
from projects.from_mim_to_detector.curves import Comparison, table, write_curves
from projects.from_mim_to_detector.page import write_page

SETTINGS = "settings.json"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("output/from_mim"), help="folder of everything (default %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of student and detectors (default 0)")
    plan = Plan()
    parser.add_argument("--train-scenes", type=int, default=plan.train_scenes, help="of the detectors (default %(default)s)")
    parser.add_argument("--val-scenes", type=int, default=plan.val_scenes, help="both are evaluated on (default %(default)s)")
    parser.add_argument("--unlabelled", type=int, default=plan.unlabelled, help="scenes of the student (default %(default)s)")
    parser.add_argument("--teacher-scenes", type=int, default=plan.teacher_scenes, help="default %(default)s")
    parser.add_argument("--teacher-steps", type=int, default=plan.teacher_steps, help="default %(default)s")
    parser.add_argument("--student", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of configs/student.py")
    parser.add_argument("--detector", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of configs/detector.py")
    return parser.parse_args()


def planned(chosen: argparse.Namespace) -> Plan:
    """What to do; UserError where the folder holds results of something else."""
    plan = Plan(
        train_scenes=chosen.train_scenes,
        val_scenes=chosen.val_scenes,
        unlabelled=chosen.unlabelled,
        teacher_scenes=chosen.teacher_scenes,
        teacher_steps=chosen.teacher_steps,
        student=tuple(chosen.student),
        detector=tuple(chosen.detector),
    )
    file, wanted = chosen.out / SETTINGS, json.loads(json.dumps(asdict(plan)))
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) != wanted:
        raise UserError(f"{chosen.out} holds a run with other settings, see {file}; choose another --out or remove the folder")
    write_json(file, wanted, indent=1)
    return plan


def check(chosen: argparse.Namespace) -> None:
    """UserError for what could only fail later."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError('the curves are drawn by matplotlib, which is not installed; run `pip install -e ".[report]"`')
    if min(chosen.seeds) < 0:
        raise UserError(f"--seeds {min(chosen.seeds)} would draw other numbers each time; give seeds from 0")


def main() -> None:
    chosen = options()
    check(chosen)
    started = time.perf_counter()
    chain = Chain(chosen.out.absolute(), planned(chosen), cores=len(os.sched_getaffinity(0)))
    chain.prepare()
    found = []
    for seed in dict.fromkeys(chosen.seeds):
        folder = chain.run(seed)
        found.append(Comparison.of(seed, chain.curve(folder / "scratch"), chain.curve(folder / "pretrained")))
        write_curves(chosen.out, found)
    page = write_page(chosen.out, found)
    print(f"\n{table(found)}\n\n{(time.perf_counter() - started) / 60:.1f} minutes; curves: {page}")


if __name__ == "__main__":
    run_tool(main)
