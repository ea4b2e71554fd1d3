#!/usr/bin/env python3
"""Take the images that find_duplicates.py found out of a corpus, or out of the evaluation set.

decontaminate.py found --corpus laion --out clean.txt          folder, list or shards: a list that pre-training reads
decontaminate.py found --corpus coco --out clean.json          annotation file: the same without those images
decontaminate.py found --evaluation --from coco --out lvis_v1_val_clean.json
"""

import argparse
import logging

from eva02_det.contamination.decontaminate import clean_corpus, clean_evaluation
from eva02_det.contamination.record import load_record
from eva02_det.utils.errors import UserError, run_tool


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("report", help="folder or report.json of find_duplicates.py")
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--corpus", metavar="NAME", help="write this corpus without what shows evaluation images")
    what.add_argument("--evaluation", action="store_true", help="write the evaluation set without what the corpora hold")
    add("--out", required=True, metavar="FILE", help=".txt or .json; shards that change are written to a folder beside it")
    add("--spec", help="with --corpus: where it lies now, if not where it was searched")
    add(
        "--from", nargs="+", dest="corpora", metavar="NAME", help="with --evaluation: only what these corpora hold (default: all)"
    )
    add("--contaminated", action="store_true", help="with --evaluation: write the images that they hold in place of the rest")
    add("--ids", action="store_true", help="with --evaluation: write the image ids alone, for score_predictions.py --image-ids")
    add("--unconfirmed", action="store_true", help="count pairs that are not confirmed too")
    add("--cache", metavar="DIR", help="of the corpus's index (default: $EVA02_MIM_CACHE, else ~/.cache/eva02_mim)")
    return made


def main() -> None:
    options = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    record = load_record(options.report)
    if options.corpus:
        if options.corpora or options.contaminated or options.ids:
            raise UserError("--from, --contaminated and --ids belong to --evaluation, not to --corpus")
        more = {"spec": options.spec, "unconfirmed": options.unconfirmed, "cache": options.cache}
        print(clean_corpus(record, options.corpus, options.out, **more))
    else:
        if options.spec:
            raise UserError("--spec belongs to --corpus, not to --evaluation")
        more = {"corpora": options.corpora, "contaminated": options.contaminated, "unconfirmed": options.unconfirmed}
        print(clean_evaluation(record, options.out, ids_only=options.ids, **more))


if __name__ == "__main__":
    run_tool(main)
