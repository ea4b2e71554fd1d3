"""Scoring of COCO- and LVIS-shaped predictions beside lvis-api, pycocotools and faster-coco-eval.

`python benchmarks/bm_evaluation.py [--images 19809] [--json FILE]`: a table of seconds (reading files included, imports not),
peak memory (of a process that does nothing else) and, per set, the largest difference of the benchmark's numbers from ours, in
percent points. The full-size set is LVIS val's in images, classes, objects and the federated lists, with 300 detections an image;
masks are scored at a tenth of it; the references at a size that they can manage. Bar: full size below 60 s and 4 GB.
"""

import argparse
import contextlib
import io
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lvis_shaped import VAL_IMAGES, Shape, write_set
from pycocotools import mask as coco_mask
from tabulate import tabulate
from torch.nn.functional import interpolate

import eva02_det  # noqa: F401  activates the provider of detectron2
from eva02_det.evaluation import runs
from eva02_det.evaluation.outcome import RESULTS_FILE
from eva02_det.evaluation.references import lvis_evaluation
from eva02_det.evaluation.score import score_folder

BAR_S, BAR_GB = 60, 4
PICTURE = (480, 640)
Numbers = dict[str, float]
COCO_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def ours(folder: Path, task: str, backend: str = "hotcoco") -> Numbers:
    """From shards to files of numbers."""
    metrics = score_folder(folder, out=folder / f"scored by {backend}", backend=backend)[task]
    return {name: value for name, value in metrics.items() if not name.startswith("AP-")}


def lvis_api(folder: Path, task: str) -> Numbers:
    """From files, as its authors do."""
    from lvis import LVIS, LVISResults

    truth = LVIS(str(folder / "annotations.json"))
    evaluation = lvis_evaluation()(truth, LVISResults(truth, _results(folder, task)), task)
    evaluation.run()
    return {name.split("@")[0]: 100 * float(value) for name, value in evaluation.get_results().items()}


def pycocotools(folder: Path, task: str) -> Numbers:
    """From files, as its authors do."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "annotations.json"))
        evaluation = COCOeval(truth, truth.loadRes(_results(folder, task)), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: 100 * float(value) for name, value in zip(COCO_NAMES, evaluation.stats)}


def _results(folder: Path, task: str) -> list[dict]:
    """The results without boxes where masks are scored: both references would take areas from the boxes."""
    results = json.loads((folder / RESULTS_FILE).read_text())
    for one in results if task == "segm" else ():
        del one["bbox"]
    return results


SCORERS: dict[str, Callable[..., Numbers]] = {"ours": ours, "lvis-api": lvis_api, "pycocotools": pycocotools}


def measure(name: str, folder: Path, task: str) -> dict:
    """One scoring in this process: seconds, peak memory so far, numbers. `ours/X` is our pipeline on backend X."""
    scorer, _, backend = name.partition("/")
    started = time.perf_counter()
    numbers = SCORERS[scorer](folder, task, **({"backend": backend} if backend else {}))
    return {"seconds": time.perf_counter() - started, "peak_gb": peak_gb(), "numbers": numbers}


def peak_gb() -> float:
    """Of this process alone: the kernel's ru_maxrss would begin with what the process that started this one held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM"))


def in_own_process(name: str, folder: Path, task: str) -> dict:
    command = [sys.executable, __file__, "--one", name, str(folder), task]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} on {folder} failed")
    return json.loads(done.stdout.splitlines()[-1])


def compare(where: str, shape: Shape, scorers: list[str], home: Path) -> list[dict]:
    """Rows of the table: every scorer on one set, the first being ours."""
    folder = home / where.replace(" ", "_")
    write_set(folder, shape)
    task = "segm" if shape.masks else "bbox"
    if len(scorers) > 1:
        score_folder(folder, out=folder, write_results=True)
    rows, base = [], {}
    for name in scorers:
        measured = in_own_process(name, folder, task)
        numbers = measured.pop("numbers")
        base = base or numbers
        apart = max(abs(numbers[metric] - value) for metric, value in base.items()) if numbers is not base else None
        size = {"set": where, "images": shape.images, "detections": shape.images * shape.detections}
        rows.append(size | {"scorer": name} | measured | {"numbers": len(numbers), "apart": apart})
        logging.info("%s: %s, %.1f s, %.2f GB", where, name, measured["seconds"], measured["peak_gb"])
    return rows


def run(images: int, home: Path) -> list[dict]:
    few, fewer = max(10, images // 20), max(10, images // 100)  # what the references can manage
    rows = compare("LVIS boxes, full size", Shape(images, 300), ["ours"], home)
    rows += compare("LVIS masks, a tenth", Shape(images // 10, 300, masks=True), ["ours"], home)
    rows += compare("LVIS boxes", Shape(few, 300), ["ours", "ours/pycocotools", "lvis-api"], home)
    rows += compare("LVIS masks", Shape(fewer, 300, masks=True), ["ours", "ours/pycocotools", "lvis-api"], home)
    against = ["ours", "ours/faster-coco-eval", "pycocotools"]
    rows += compare("COCO boxes", Shape(few, 100, classes=80, federated=False), against, home)
    return rows + compare("COCO masks", Shape(fewer, 100, classes=80, masks=True, federated=False), against, home)


def encoding(device: str, count: int = 100, repeats: int = 10) -> dict:
    """Milliseconds to turn the bitmaps of one picture, on a device, into run lengths: all at once, and by pycocotools."""
    generator = torch.Generator().manual_seed(0)
    bitmaps = torch.zeros(count, *PICTURE, dtype=torch.bool)
    for bitmap in bitmaps:
        top, left, height, width = (int(n) for n in torch.rand(4, generator=generator) * 200 + 20)
        coarse = torch.rand(1, 1, 6, 6, generator=generator) + 0.2
        bitmap[top : top + height, left : left + width] = interpolate(coarse, (height, width), mode="bilinear")[0, 0] > 0.5
    bitmaps = bitmaps.to(device)

    def one_by_one() -> list[bytes]:
        columns = bitmaps.to(torch.uint8).transpose(1, 2).contiguous().cpu().numpy().transpose(2, 1, 0)
        return [entry["counts"] for entry in coco_mask.encode(columns)]

    column = runs.encode(bitmaps)
    equal = [column[row] for row in range(count)] == one_by_one()
    timed = {
        name: _milliseconds(call, repeats)
        for name, call in (("ours_ms", lambda: runs.encode(bitmaps)), ("pycocotools_ms", one_by_one))
    }
    return {"masks": count, "picture": "x".join(map(str, PICTURE)), "device": device} | timed | {"equal bytes": equal}


def _milliseconds(call: Callable[[], object], repeats: int) -> float:
    call()
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return 1e3 * (time.perf_counter() - started) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=VAL_IMAGES, help="of the full-size set; the others shrink with it")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of the bitmaps to encode")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--one", nargs=3, metavar=("SCORER", "FOLDER", "TASK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        logging.disable(logging.WARNING)
        name, folder, task = arguments.one
        print(json.dumps(measure(name, Path(folder), task)))
        return
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger().setLevel(logging.INFO)
    logging.getLogger("eva02_det").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as home:
        rows = run(arguments.images, Path(home))
    print(tabulate(rows, headers="keys", floatfmt=("", "", "", "", ".1f", ".2f", "", ".1e")))
    encoded = encoding(arguments.device)
    print(tabulate([encoded], headers="keys", floatfmt=".1f"))
    full = rows[0]
    kept = full["seconds"] < BAR_S and full["peak_gb"] < BAR_GB
    print(f"bar, full size below {BAR_S} s and {BAR_GB} GB: {'kept' if kept else 'MISSED'}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "encoding": encoded}, indent=1))


if __name__ == "__main__":
    main()
