#!/usr/bin/env python3
"""Build the index of a source of pre-training images before a job needs it, and try some of its images.

tools/index_images.py datasets/imagenet-21k --try 1000
tools/index_images.py 's3://bucket/in21k-{0000..1023}.tar'
"""

import argparse
import logging
import time

import numpy as np

from eva02_det.utils.errors import UserError, run_tool
from eva02_det.utils.sources.files import open_source
from eva02_mim.batches import decoded, read


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="+", help="folder, list (.txt, .parquet) or tar shards, as in the recipes")
    parser.add_argument("--cache", help="folder of the index (default: $EVA02_MIM_CACHE, else ~/.cache/eva02_mim)")
    parser.add_argument("--try", dest="tried", type=int, default=0, metavar="N", help="read N images spread over the source")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    broken = 0
    for spec in arguments.source:
        begun = time.perf_counter()
        source = open_source(spec, cache=arguments.cache)
        print(f"{spec}: {len(source):,} images, {time.perf_counter() - begun:.1f} s")
        numbers = np.linspace(0, len(source) - 1, min(arguments.tried, len(source))).astype(int).tolist()
        unreadable = [(number, why) for number in numbers if isinstance(why := decoded(read(source, number)), str)]
        for number, why in unreadable:
            print(f"unreadable: {source.name(number)}: {why}")
        if numbers:
            print(f"{len(numbers) - len(unreadable)} of {len(numbers)} tried images are readable")
        broken += len(unreadable)
    if broken:
        raise UserError(f"{broken} of the tried images are unreadable; repair or remove them")


if __name__ == "__main__":
    run_tool(main)
