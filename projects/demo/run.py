#!/usr/bin/env python3
"""The main job on a small scale: render scenes, train a nano detector on the CPU, evaluate it, draw a page of pictures."""

import argparse
import json
import os
import time
from pathlib import Path

from scenes import write_scenes

from eva02_det.engine.evaluate import results_file
from eva02_det.engine.setup import argument_parser, set_up
from eva02_det.engine.train import train
from eva02_det.launch.process_group import start
from eva02_det.report.collect import read_results, registered
from eva02_det.report.page import visualize
from eva02_det.utils.config import load_config
from eva02_det.utils.errors import run_tool

CONFIG = Path(__file__).parent / "configs" / "nano_scenes.py"
SHOWN = ("AP", "AP50", "AP75")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("output/demo"), help="folder of the data, the run and the page")
    parser.add_argument("--train-scenes", type=int, default=1000)
    parser.add_argument("--val-scenes", type=int, default=100)
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="that train, each on its cores")
    parser.add_argument("overrides", nargs="*", help="a.b.c=value, as for the training tool")
    return parser.parse_args()


def render(folder: Path, train_scenes: int, val_scenes: int) -> None:
    """Write the data set where the config's data set name leads to."""
    started = time.perf_counter()
    write_scenes(folder / "scenes", train=train_scenes, val=val_scenes)
    os.environ["DETECTRON2_DATASETS"] = str(folder)
    print(f"rendered {train_scenes} + {val_scenes} scenes in {time.perf_counter() - started:.0f} s", flush=True)


def run(chosen: argparse.Namespace) -> None:
    """One process of the training."""
    config = load_config(chosen.config_file, chosen.opts)
    set_up(config, chosen)
    train(config)


def report(out: Path, facts: dict[str, str]) -> Path:
    """Draw the page and print the table; returns where the page is."""
    results = json.loads(results_file(out / "run").read_text())
    predictions = read_results(out / "run" / "inference" / "coco_instances_results.json")
    page = visualize(registered("scenes_val"), out / "page", results=predictions, limit=24, table=results, facts=facts)
    print(f"\n{'held-out scenes':>16}" + "".join(f"{name:>8}" for name in SHOWN))
    for task, name in (("bbox", "boxes"), ("segm", "masks")):
        print(f"{name:>16}" + "".join(f"{results[task][metric]:8.1f}" for metric in SHOWN))
    return page


def main() -> None:
    chosen = options()
    started = time.perf_counter()
    render(chosen.out / "data", chosen.train_scenes, chosen.val_scenes)
    overrides = [f"train.output_dir={chosen.out / 'run'}", *chosen.overrides]
    start(run, argument_parser().parse_args(["--config-file", str(CONFIG), "--num-gpus", str(chosen.processes), *overrides]))
    minutes = f"{(time.perf_counter() - started) / 60:.1f}"
    page = report(chosen.out, {"minutes": minutes})
    print(f"\n{minutes} minutes; pictures: {page}")


if __name__ == "__main__":
    run_tool(main)
