"""What a run would find here: its data, the memory of its loader workers, of its GPU, and the time of a checkpoint."""

import copy
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from omegaconf import DictConfig

from eva02_det.data.check import Report, check_named
from eva02_det.data.objects365 import SPLITS
from eva02_det.data.paths import datasets_root
from eva02_det.engine.dry_run import IMAGES
from eva02_det.engine.memory import CONTEXT_GIB, GIB, estimate_memory
from eva02_det.engine.scaling import apply_scaling, memory_limit
from eva02_det.launch.check_machine import memory_gib
from eva02_det.launch.finding import FAULT, NOTE, OK, WARNING, Finding
from eva02_det.utils.config import get
from eva02_det.utils.errors import UserError

# published numbers of images that a set's annotation file lists; of Objects365 those that were ever released are fewer
LISTED = {
    **IMAGES,
    "objects365_train": 1_742_292,
    "coco_2017_val": 5_000,
    "coco_2017_test-dev": 20_288,
    "lvis_v1_val": 19_809,
    "lvis_v1_minival": 4_809,
}
LVIS_FOLDERS = {"train2017": 118_287, "val2017": 5_000}  # of COCO, whose images LVIS splits anew: each split needs both
HEADROOM = 0.9  # of a machine's memory; the rest is for the file cache and the system
MEASURED_WORKERS, MEASURED_BATCHES = 2, 2


def check_data(names: Iterable[str] = (), *, workers: int = 4) -> Iterator[Finding]:
    """Findings on data sets by name; without names, on those of which something is there."""
    asked = list(names)
    reports = list(check_named(asked, depth="exists", workers=workers))
    for report in reports:
        if not asked and report.absent:
            continue
        yield _of_set(report)
    if not asked and all(report.absent for report in reports):
        yield Finding("data", NOTE, f"no known data set below {datasets_root()}", "set DETECTRON2_DATASETS to their folder")
    if any(report.name.startswith("lvis") and (asked or not report.absent) for report in reports):
        yield from _lvis_folders()


def check_loader(open_loader: Callable[[], Iterable[Any]], workers: int, processes: int) -> Finding:
    """Memory of `processes` of one machine with `workers` loader workers each, measured on a few batches of a real loader.

    open_loader gives one with at most MEASURED_WORKERS workers. What a worker holds by itself is counted, not what it shares.
    """
    topic = "loader memory"
    before = set(_children())
    try:
        batches = iter(open_loader())
        for _ in range(MEASURED_BATCHES):
            next(batches)
    except UserError as error:
        return Finding(topic, FAULT, str(error), "see the data above")
    own = [_private_gib(pid) for pid in set(_children()) - before]
    mine, each = _resident_gib(), max(own, default=0.0)
    del batches
    need, limit = processes * (mine + workers * each), memory_gib()
    text = (
        f"{processes} processes x ({mine:.2f} GiB + {workers} workers x {each:.2f} GiB) = {need:.1f} GiB of {limit:.0f} GiB; "
        f"measured after {MEASURED_BATCHES} batches, workers grow with time"
    )
    if need > HEADROOM * limit:
        fewer = max(0, int((HEADROOM * limit / processes - mine) / max(each, 1e-3)))
        return Finding(topic, FAULT, text, f"dataloader.train.num_workers={min(fewer, workers)}, or more --memory")
    return Finding(topic, OK, text)


def check_memory(config: DictConfig, processes: int) -> Finding:
    """The estimate of a detector's training step on one GPU, against what the GPU has."""
    config = copy.deepcopy(config)
    try:
        said = apply_scaling(config, processes)
        estimate = estimate_memory(config, processes)
    except UserError as error:
        return Finding("GPU memory", FAULT, str(error), "see --dry-run of tools/lazyconfig_train_net.py")
    each = int(config.dataloader.train.total_batch_size) // processes
    text = f"about {estimate.total_gib(each):.1f} GiB a process with {each} images at a time on {processes} processes"
    limit = memory_limit(config)
    if limit is None:
        return Finding("GPU memory", NOTE, f"{text}; there is no GPU here to hold it against (train.memory_gib=N stands for one)")
    if estimate.total_gib(each) > limit.gib:
        return Finding("GPU memory", FAULT, f"{text}, but {limit.gib:.0f} GiB are there; {' '.join(said)}", "use more processes")
    return Finding("GPU memory", OK, f"{text}, of {limit.gib:.0f} GiB (of which {CONTEXT_GIB:.0f} GiB are CUDA's)")


def checkpoint_gib(config: DictConfig) -> float:
    """Size of a detector's checkpoint: weights, two moments and the average, all fp32."""
    fixed = estimate_memory(config).fixed
    return sum(fixed.get(part, 0) for part in ("weights", "AdamW moments", "weight average")) / GIB


def check_checkpoint(gib: float, mib_per_s: float) -> tuple[Finding, float]:
    """The time that one takes in a folder of this speed, and the seconds alone."""
    took_s = gib * 1024 / mib_per_s
    text = f"{gib:.2f} GiB at {mib_per_s:.0f} MiB/s, written and synced: about {took_s:.0f} s each"
    if took_s > 120:
        return Finding("checkpoint", WARNING, text, "train.checkpointer.asynchronous=True, or a faster folder"), took_s
    return Finding("checkpoint", OK, text), took_s


def open_train_loader(config: DictConfig) -> Iterable[Any]:
    """The training loader of a detector's config, with few workers."""
    config = copy.deepcopy(config)
    config.dataloader.train.num_workers = min(MEASURED_WORKERS, get(config, "dataloader.train.num_workers", 0))
    return instantiate(config.dataloader.train)


def names_of(config: DictConfig) -> list[str]:
    """The data sets that a config trains and tests on."""
    found: list[str] = []
    for part in ("train", "test"):
        names = get(config, f"dataloader.{part}.dataset.names", [])
        found += [names] if isinstance(names, str) else list(names)
    return list(dict.fromkeys(found))


def _of_set(report: Report) -> Finding:
    """A data set in a sentence; one that lacks a part of the published images is a warning, faulty files are a fault."""
    topic = f"data {report.name}"
    if report.absent:
        return Finding(topic, FAULT, report.absent, "download it, or set DETECTRON2_DATASETS; see datasets/README.md")
    text = f"{report.images:,} images, {report.annotations:,} annotations, {report.classes} classes"
    if not report.is_usable:
        faults = [f"{len(found):,} images {kind}" for kind, found in report.faults.items()]
        faults += [str(finding) for finding in report.findings if finding.fatal]
        return Finding(topic, FAULT, f"{text}; {'; '.join(faults)}", f"`tools/check_datasets.py {report.name}` lists them")
    listed = LISTED.get(report.name)
    if listed is not None and report.images != listed:
        text = f"{text}, while the published set lists {listed:,} images"
        return Finding(topic, WARNING, text, "correct if a part is what you want; else download the annotations again")
    released = f", {report.never_released} of them never released" if report.never_released and report.name in SPLITS else ""
    return Finding(topic, OK, text + released)


def _lvis_folders() -> Iterator[Finding]:
    for name, published in LVIS_FOLDERS.items():
        folder = datasets_root() / "coco" / name
        if not folder.is_dir():
            text = f"{folder} is missing, and every split of LVIS has images from train2017 and from val2017"
            yield Finding(f"LVIS {name}", FAULT, text, "download both folders of COCO 2017 (images.cocodataset.org/zips)")
            continue
        with os.scandir(folder) as entries:
            count = sum(entry.name.endswith(".jpg") for entry in entries)
        text = f"{count:,} of {published:,} images in {folder}"
        remedy = "unpack the archive again" if count < published else ""
        yield Finding(f"LVIS {name}", WARNING if count < published else OK, text, remedy)


def _children() -> list[int]:
    """Processes that this one has started and that live."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        file = task / "children"
        found += [int(pid) for pid in file.read_text().split()] if file.is_file() else []
    return found


def _private_gib(pid: int) -> float:
    """What a process shares with no other."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))) / 2**20


def _resident_gib() -> float:
    """What this process holds in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / GIB
