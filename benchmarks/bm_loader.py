"""Training images per second and core beside detectron2's mapper, and the memory that a worker adds to a large data set.

`python benchmarks/bm_loader.py [--data coco_2017_train] [--pixels 1024 1536] [--store-gib 1] [--json FILE]`; one thread.
Both mappers see the same images after the same seeds, in turn; CPU time, medians over the passes. The other mapper is that
of the detectron2 in use: decode, flip, resize, crop, clip the polygons (or rasterise them), each on all there is.
"""

import argparse
import json
import logging
import os
import pickle
import statistics
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from eva02_det import _provider
from eva02_det.data.jitter_mapper import JitterMapper
from eva02_det.data.loaders import build_train_loader
from eva02_det.data.lsj import train_augmentations
from eva02_det.data.registration import load_dataset

from detectron2.data import DatasetMapper  # isort: skip  after the provider is chosen

Record = dict[str, Any]
MIB = 2**20
BATCH, BATCHES = 2, 40


def mapper(kind: type[DatasetMapper], pixels: int, mask_format: str) -> DatasetMapper:
    masks = mask_format != "none"
    return kind(
        True,
        augmentations=train_augmentations(pixels),
        image_format="RGB",
        use_instance_mask=masks,
        recompute_boxes=masks,
        instance_mask_format=mask_format if masks else "polygon",
    )


def one_pass(records: list[Record], mappers: list[DatasetMapper], seed: int) -> tuple[list[float], np.ndarray]:
    """CPU seconds of each mapper, and how many pixel values differ by 0, 1, 2 ... grey levels."""
    seconds, levels = [0.0, 0.0], np.zeros(256, dtype=np.int64)
    for number, record in enumerate(records):
        images = []
        for place, function in enumerate(mappers):
            np.random.seed(seed * len(records) + number)
            start = time.process_time()
            images.append(function(record)["image"])
            seconds[place] += time.process_time() - start
        levels += torch.bincount((images[0].int() - images[1].int()).abs().flatten(), minlength=256).numpy()
    return seconds, levels


def speed(records: list[Record], pixels: int, mask_format: str, passes: int) -> dict[str, Any]:
    mappers = [mapper(kind, pixels, mask_format) for kind in (JitterMapper, DatasetMapper)]
    one_pass(records[:10], mappers, 0)
    found = [one_pass(records, mappers, seed) for seed in range(passes)]
    ours, other = (statistics.median(seconds[place] for seconds, _ in found) / len(records) for place in (0, 1))
    levels = sum(counts for _, counts in found)
    return {
        "pixels": pixels,
        "masks": mask_format,
        "ours_images_per_s": 1 / ours,
        "detectron2_images_per_s": 1 / other,
        "ratio": other / ours,
        "share_one_level_off": float(levels[1] / levels.sum()),
        "share_two_levels_off": float(levels[2] / levels.sum()),
        "largest_difference": int(np.flatnonzero(levels)[-1]),
    }


def own_mib(process: int) -> float:
    """Memory that only this process has."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1024


def worker_memory(records: list[Record], gib: float, start: str, pixels: int) -> dict[str, Any]:
    """Own memory of each of two workers after some batches, with a store of that size and with one of a few records."""
    copies = max(1, round(gib * 1024 * MIB / sum(len(pickle.dumps(record)) for record in records)))
    row: dict[str, Any] = {"start": start, "store_images": copies * len(records)}
    for name, store in (("small", records), ("large", records * copies)):
        loader = build_train_loader(
            store,
            mapper=mapper(JitterMapper, pixels, "polygon"),
            total_batch_size=BATCH,
            num_workers=2,
            multiprocessing_context=start,
        )
        batches = iter(loader)
        for _ in islice(batches, BATCHES):
            pass
        row[f"{name}_store_mib_per_worker"] = statistics.mean(own_mib(worker.pid) for worker in batches._workers)
        del batches, loader
    row["added_by_store_mib"] = row["large_store_mib_per_worker"] - row["small_store_mib_per_worker"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu",), help="loaders work on the CPU")
    parser.add_argument("--data", default="coco_2017_train")
    parser.add_argument("--pixels", type=int, nargs="+", default=[1024, 1536])
    parser.add_argument("--masks", nargs="+", default=["polygon", "bitmask", "none"])
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--store-gib", type=float, default=1.0, help="size of the annotation store; 0 leaves memory out")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("eva02_det").setLevel(logging.WARNING)
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    records = load_dataset(arguments.data)
    rows = [speed(records, px, form, arguments.passes) for px in arguments.pixels for form in arguments.masks]
    if arguments.store_gib:
        rows += [worker_memory(records, arguments.store_gib, start, arguments.pixels[0]) for start in ("fork", "spawn")]
    logging.info("%s; %d images of %s", _provider.describe(), len(records), arguments.data)
    for row in rows:
        logging.info(
            "  ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"provider": _provider.active(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
