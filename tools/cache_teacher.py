#!/usr/bin/env python3
"""Compute the teacher's features of one fixed crop of every image, once, for pre-training from them.

tools/cache_teacher.py --config-file projects/eva02_mim/configs/b_in21k.py --output features --num-gpus 8
tools/cache_teacher.py --teacher timm:eva_giant_patch14_clip_224.laion400m --data images --output features
tools/pretrain.py --config-file projects/eva02_mim/configs/b_in21k.py train.teacher_cache=features
"""

import argparse
import json
from pathlib import Path

from eva02_det.launch.process_group import start
from eva02_det.utils.errors import UserError, run_tool
from eva02_mim.cache_writer import SHARD
from eva02_mim.config import add_processes, load_recipe
from eva02_mim.fixed_crops import fill_from
from eva02_mim.teacher_cache import STORAGES

PUBLISHED = Path(__file__).resolve().parents[1] / "projects/eva02_mim/configs/b_in21k.py"  # crops and seed of all recipes


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Stopped and called again it goes on with what is missing. Overrides a.b.c=value of the config come last.",
    )
    options.add_argument("--output", required=True, metavar="FOLDER", help="of the cache")
    options.add_argument("--config-file", metavar="FILE", help="of the pre-training: its teacher, images, crops and seed")
    options.add_argument("--teacher", metavar="NAME", help="instead: a teacher, as in the recipes' teacher.source")
    options.add_argument("--data", metavar="SPEC", help="with --teacher: a folder, list or shards of images")
    options.add_argument("--storage", choices=tuple(STORAGES), default="fp16", help="of the features (default fp16)")
    options.add_argument("--batch", type=int, default=64, help="images at a time (default 64)")
    options.add_argument("--workers", type=int, default=10, help="of each process, reading images (default 10)")
    options.add_argument("--shard", type=int, default=SHARD, help=f"images in a file, which a stop may lose (default {SHARD})")
    add_processes(options)
    return options


def recipe(options: argparse.Namespace) -> tuple[str | Path, list[str]]:
    """Config file and overrides."""
    if bool(options.config_file) == bool(options.teacher and options.data):
        raise UserError("say what to cache: either --config-file FILE, or --teacher NAME and --data SPEC")
    if options.config_file:
        return options.config_file, options.opts
    source = f"dataloader.train.source.spec={json.dumps(options.data)}"
    teacher = f"teacher.source={json.dumps(options.teacher)}"
    return PUBLISHED, [source, "dataloader.train.source.expected=null", teacher, *options.opts]


def run(options: argparse.Namespace) -> None:
    """One process."""
    kept = {"storage": options.storage, "shard": options.shard, "batch_size": options.batch, "workers": options.workers}
    fill_from(load_recipe(*recipe(options)), options.output, **kept)


if __name__ == "__main__":
    run_tool(lambda: start(run, parser().parse_intermixed_args()))
