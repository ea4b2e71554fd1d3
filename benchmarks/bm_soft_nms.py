"""Soft-NMS of all classes beside torchvision's hard `batched_nms` at the same input.

`python benchmarks/bm_soft_nms.py [--device cuda] [--json FILE]`; medians, in milliseconds.
"""

import argparse
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from eva02_det.layers.soft_nms import METHODS, soft_nms

LIVE = (3_000, 8_000)
CLASSES = 80
IMAGE_PX = 1536
PROPOSALS_PER_OBJECT = 12


def candidates(live: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and classes of `live` (proposal, class) pairs above the minimum score, as a detector leaves them.

    Proposals crowd around objects of all sizes; a few classes hold most of the candidates.
    """
    generator = torch.Generator().manual_seed(live)
    objects = live // PROPOSALS_PER_OBJECT
    centre = torch.rand(objects, 2, generator=generator) * IMAGE_PX
    side = torch.exp(torch.rand(objects, 2, generator=generator) * 4 + 2.5)  # 12 .. 665 px
    popularity = 1 / torch.arange(1, CLASSES + 1)  # Zipf's law
    label = torch.multinomial(popularity, objects, replacement=True, generator=generator)
    owner = torch.randint(objects, (live,), generator=generator)
    half = side[owner] / 2 * torch.exp(torch.randn(live, 2, generator=generator) * 0.1)
    middle = centre[owner] + side[owner] * torch.randn(live, 2, generator=generator) * 0.08
    scores = torch.rand(live, generator=generator).pow(4).clamp(min=1.1e-3)
    boxes = torch.cat([middle - half, middle + half], 1).clamp(0, IMAGE_PX)
    return boxes.to(device), scores.to(device), label[owner].to(device)


def milliseconds(call: Callable[[], object], device: str, repeats: int) -> float:
    """Median time of one call, after three calls to warm up."""

    def once() -> float:
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - start)

    return statistics.median([once() for _ in range(repeats + 3)][3:])


def measure(live: int, device: str, repeats: int) -> dict[str, float | int | str]:
    boxes, scores, classes = candidates(live, device)
    row: dict[str, float | int | str] = {"device": device, "live_candidates": live, "classes": CLASSES}
    for method in METHODS:
        row[f"soft_{method}_ms"] = milliseconds(partial(soft_nms, boxes, scores, classes, method=method), device, repeats)
    row["torchvision_hard_ms"] = milliseconds(partial(batched_nms, boxes, scores, classes, 0.6), device, repeats)
    row["soft_linear_survivors"] = len(soft_nms(boxes, scores, classes)[0])
    row["hard_survivors"] = len(batched_nms(boxes, scores, classes, 0.6))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    rows = [measure(live, arguments.device, arguments.repeats) for live in LIVE]
    for row in rows:
        logging.info("  ".join(f"{key} {round(value, 2) if isinstance(value, float) else value}" for key, value in row.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"threads": torch.get_num_threads(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
