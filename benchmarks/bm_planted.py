"""Recall and precision of the search for duplicates, change by change: copies planted among rendered distractors.

`python benchmarks/bm_planted.py [--images FOLDER ...] [--distractors 5000] [--every 1] [--workers 1] [--json FILE]`

The pictures in FOLDER (default: train2017 and val2017 of COCO below DETECTRON2_DATASETS) are the evaluation set. The corpus is
every change of each of them, the distractors, and the pictures themselves. A pair counts as right where the one was made of the
other. Pictures may be copies of one another: pairs that are not known as such are listed, to be looked at, and count as wrong.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.planted import ALL_BUT_FEW, CHANGES, MOST, Copy, copies, decoded, distractor, encoded
from eva02_det.contamination.alignment import confirm
from eva02_det.contamination.candidates import CandidateSearch
from eva02_det.contamination.fingerprints import corpus_rows, evaluation_rows

# pictures of the test data that are copies of one another, as one sees: the first is cut from the second
RELATED = (("000000318219.jpg", "000000554625.jpg"),)
UNCHANGED, DISTRACTOR = "unchanged", "distractor"
Found = list[tuple[int, bool]]  # evaluation images that are candidates, and whether the pixels confirm them


class Searched:
    """The evaluation pictures and their index."""

    def __init__(self, pictures: list[bytes]) -> None:
        self.images = [decoded(data) for data in pictures]
        rows = [evaluation_rows(image)[0] for image in self.images]
        self.index = CandidateSearch(np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(part) for part in rows]))

    def find(self, data: bytes) -> Found:
        image = decoded(data)
        rows = corpus_rows(image)
        numbers = self.index.search(rows, np.zeros(len(rows), dtype=np.int64)).evaluation.tolist()
        return [(number, confirm(self.images[number], image) is not None) for number in numbers]


def rendered(number: int) -> Copy:
    return Copy(DISTRACTOR, -1, encoded(distractor(number)))


def planted(pictures: list[bytes], count: int) -> Iterator[Copy]:
    yield from copies(pictures)
    yield from (Copy(UNCHANGED, number, data) for number, data in enumerate(pictures))
    yield from map(rendered, range(count))


def _answer(searched: Searched, copy: Copy) -> tuple[str, int, Found]:
    return copy.change, copy.source, searched.find(copy.data)


def answers(pictures: list[bytes], count: int, workers: int) -> Iterator[tuple[str, int, Found]]:
    """(change, picture it was made of, what was found) of every corpus image."""
    answer = partial(_answer, Searched(pictures))
    if workers < 2:
        yield from map(answer, planted(pictures, count))
        return
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        yield from pool.imap(answer, planted(pictures, count), chunksize=8)


def tally(found: Iterator[tuple[str, int, Found]], names: list[str]) -> dict[str, Any]:
    """Counts for each change, and the pairs of two pictures. Related ones count neither as right nor as wrong."""
    related = {(names.index(a), names.index(b)) for pair in RELATED for a, b in (pair, pair[::-1]) if {a, b} <= set(names)}
    rows: dict[str, dict[str, int]] = {}
    pairs: set[tuple[int, int]] = set()
    for change, source, numbers in found:
        row = rows.setdefault(change, dict.fromkeys(("images", "candidates", "proposed", "right", "wrong"), 0))
        row["images"] += 1
        row["candidates"] += len(numbers)
        row["proposed"] += any(number == source for number, _ in numbers)
        row["right"] += any(number == source and sure for number, sure in numbers)
        wrong = [number for number, sure in numbers if sure and number != source and (source, number) not in related]
        row["wrong"] += len(wrong)
        pairs |= {(source, number) for number in wrong}
    return {"changes": rows, "pairs": sorted(pairs)}


def report(counts: dict[str, Any], seconds: float) -> tuple[str, bool]:
    """The table in Markdown, and whether the bars are held."""
    lines = ["| change | images | candidates | recall of the candidates | recall | precision |", "|---|---|---|---|---|---|"]
    held, right, wrong = True, 0, 0
    for change, row in counts["changes"].items():
        claimed = row["right"] + row["wrong"]
        right, wrong = right + row["right"], wrong + row["wrong"]
        recall = row["right"] / row["images"]
        shares = ["-", "-"] if change == DISTRACTOR else [f"{row['proposed'] / row['images']:.3f}", f"{recall:.3f}"]
        precision = f"{row['right'] / claimed:.3f}" if claimed else "-"
        lines.append(f"| {change} | {row['images']} | {row['candidates']} | {' | '.join(shares)} | {precision} |")
        held &= recall >= (0.99 if change in ALL_BUT_FEW else 0.9 if change in MOST else 0)
    precision = right / max(right + wrong, 1)
    images = sum(row["images"] for row in counts["changes"].values())
    lines.append(f"| all | {images} | {sum(row['candidates'] for row in counts['changes'].values())} | | | {precision:.4f} |")
    lines.append(f"\n{images} corpus images in {seconds:.0f} s")
    lines += [f"pair of two pictures: {first} found as {second}" for first, second in counts["pairs"]]
    return "\n".join(lines), held and precision >= 0.99


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--distractors", type=int, default=5000)
    parser.add_argument("--every", type=int, default=1, help="take each n-th picture only")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", help="not used: all of it runs on the CPU")
    args = parser.parse_args()
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "coco"
    files = [path for folder in args.images or [root / "train2017", root / "val2017"] for path in sorted(folder.glob("*.jpg"))]
    if not files:
        sys.exit(f"no photographs (*.jpg) in {root}; set DETECTRON2_DATASETS, or pass --images FOLDER")
    files = files[:: args.every]
    pictures, names = [path.read_bytes() for path in files], [path.name for path in files]
    start = time.perf_counter()
    counts = tally(answers(pictures, args.distractors, args.workers), names)
    text, held = report(counts, time.perf_counter() - start)
    print(text)
    print("the bars are held" if held else "THE BARS ARE MISSED")
    if args.json:
        args.json.write_text(json.dumps({**counts, "files": names}, indent=1))
    assert set(CHANGES) <= set(counts["changes"])
    sys.exit(not held)


if __name__ == "__main__":
    main()
