#!/usr/bin/env python3
"""Which images of an evaluation set were in a corpus: a report, its numbers and pairs; docs/contamination.md tells more.

find_duplicates.py --evaluation lvis_v1_val --corpus coco=coco_2017_train o365=zhiyuan_objv2_train.json --out found
find_duplicates.py --evaluation lvis_v1_val --corpus laion='shards/{00000..01023}.tar' web=list.txt --out found --processes 32
A run that was stopped goes on where it was when it is called again. In parts, each also on another machine:
find_duplicates.py ... --shard 0/8    ...    find_duplicates.py ... --shard 7/8, and at last find_duplicates.py ... --merge
"""

import argparse
import logging
import os
from pathlib import Path

from eva02_det.contamination import leak_card
from eva02_det.contamination.corpus import named_specs, open_corpora
from eva02_det.contamination.evaluation_images import open_evaluation
from eva02_det.contamination.find import Search, merge, save, search
from eva02_det.contamination.pictures import Pictures
from eva02_det.contamination.settings import STAGES, Settings, make_settings
from eva02_det.contamination.work import part_of
from eva02_det.report.duplicates_page import write_page
from eva02_det.utils.errors import run_tool

FORMS = (
    "folder of images or of .tar shards, shards a-{000..127}.tar, list (.txt, .parquet), FILE.json, FILE.json@IMAGES, data set"
)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--corpus", nargs="+", required=True, metavar="NAME=SPEC", help=FORMS)
    add("--evaluation", required=True, metavar="NAME", help="a registered data set such as lvis_v1_val, or FILE.json@IMAGES")
    add("--out", required=True, metavar="DIR", help="of the report")
    add("--work", metavar="DIR", help="of what is done so far (default: OUT/work)")
    add("--stages", nargs="+", metavar="STAGE", help=f"some of {' '.join(STAGES)} (default: all; embedding with --embedder)")
    add("--embedder", metavar="SPEC", help="timm/NAME, open_clip/NAME[:TAG], TorchScript file, exported folder or checkpoint")
    add("--device", default=Settings.device, help="of the embedder (default cpu)")
    add("--min-similarity", type=float, default=Settings.min_similarity, help="of embeddings (default %(default)s)")
    add("--max-bits", type=int, default=Settings.max_bits, help="of 64 in which fingerprints may differ (default %(default)s)")
    add("--coco-ids", nargs="+", default=[], metavar="NAME", help="corpora whose ids are COCO's though nothing in them says so")
    add("--processes", type=int, default=len(os.sched_getaffinity(0)), help="default: one for each core")
    add("--shard-images", type=int, default=Settings.shard_images, help="what a stop may lose (default %(default)s)")
    add("--retry-unreadable", action="store_true", help="search shards again of which images could not be read")
    part = made.add_mutually_exclusive_group()
    part.add_argument("--shard", metavar="I/N", help="search each N-th shard from the I-th on (from 0), and write no report")
    part.add_argument("--merge", action="store_true", help="write the report of shards that are all searched")
    return made


def main() -> None:
    options = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    own = {key: getattr(options, key) for key in ("embedder", "device", "min_similarity", "max_bits", "shard_images")}
    settings, work = make_settings(options.stages, **own), Path(options.work or Path(options.out, "work"))
    part = part_of(options.shard) if options.shard else None
    evaluation = open_evaluation(options.evaluation)
    corpora = open_corpora(named_specs(options.corpus), coco_ids=options.coco_ids, cache=work / "index")
    plan = Search(corpora, evaluation, settings, work)
    if not options.merge:
        search(plan, processes=options.processes, shard=part, retry=options.retry_unreadable)
    if part:
        print(f"shard {options.shard} is searched; when all are, write the report with --merge in place of --shard")
        return
    record, unreadable = merge(plan)
    save(record, unreadable, options.out)
    pictures = Pictures(record, evaluation, corpora)
    write_page(record.data, pictures.evaluation_file, pictures.corpus_bytes, options.out)
    leak_card.write(record, options.out)
    print(*record.lines(), f"report: {options.out}", sep="\n")


if __name__ == "__main__":
    run_tool(main)
