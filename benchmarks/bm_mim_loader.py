"""Crops per second and core of the pre-training loader beside the published way, and what a large set costs a worker.

`python benchmarks/bm_mim_loader.py [--images FOLDER] [--names 14200000] [--peer-names 1000000] [--json FILE]`

Speed: both ways read the same folder in this process; CPU time, medians over the passes taken in turn. The published way is
torchvision's image folder with timm's crop, which makes two normalised fp32 tensors (teacher, student) and a mask an image.
Memory: private memory of one worker process that reads images all over an index of --names, beside one that holds the same as a
list of (path, class), the image folder's way, with --peer-names; each less a worker on a small folder.
"""

import argparse
import gc
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder as LabelledFolder

from eva02_det.utils.sources.base import Source
from eva02_det.utils.sources.files import open_source
from eva02_det.utils.sources.packed import PackedNames, write_packed
from eva02_mim.loader import mim_loader
from eva02_mim.masking import BlockMasks
from eva02_mim.normalise import CLIP_MEAN, CLIP_STD

BATCH, MIB = 32, 2**20


def write_folder(folder: Path, count: int = 256) -> None:
    """JPEG files of ImageNet's usual size, 500 x 375, about 110 kB each."""
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 6, (375, 500, 3))
        stream = io.BytesIO()
        Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
        path = folder / f"n{number % 8:08d}" / f"n{number:08d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stream.getvalue())


class PublishedWay(Dataset[Any]):
    """An image as the published pre-training prepares it: two normalised tensors of one crop, and a mask."""

    def __init__(self, folder: Path) -> None:
        crop = [
            transforms.RandomHorizontalFlip(),
            RandomResizedCropAndInterpolation(224, scale=(0.2, 1.0), interpolation="bicubic"),
        ]
        self.images = LabelledFolder(str(folder), transforms.Compose(crop))
        self.tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(CLIP_MEAN, CLIP_STD)])
        self.masks = BlockMasks()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> Any:
        crop, _ = self.images[number]
        return self.tensor(crop), self.tensor(crop), self.masks.draw(0, 0, number)


def ours(source: Source, steps: int, workers: int = 0) -> Iterator[torch.Tensor]:
    loader = mim_loader(source, batch_size=BATCH, masks=BlockMasks(), workers=workers)
    for _, batch in zip(range(steps), loader):
        yield batch["images"]


def published(folder: Path, steps: int) -> Iterator[torch.Tensor]:
    for _, batch in zip(range(steps), DataLoader(PublishedWay(folder), BATCH, shuffle=True, drop_last=True)):
        yield batch[0]


def crops_per_cpu_second(ways: dict[str, Callable[[], Iterator[torch.Tensor]]], passes: int) -> dict[str, float]:
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(passes):
        for name, way in ways.items():
            start, count = time.process_time(), 0
            for images in way():
                count += len(images)
            seen[name].append(count / (time.process_time() - start))
    return {name: statistics.median(rates) for name, rates in seen.items()}


class ManyNames(Source):
    """A source of any size over few files: its index holds other spellings of their names, as long as ImageNet-21K's."""

    def __init__(self, root: Path, index: Path, count: int) -> None:
        files = [path.relative_to(root).as_posix().encode() for path in sorted(root.rglob("*.JPEG"))]
        self.seconds = -time.perf_counter()
        write_packed(index, (b"./" + files[number % len(files)] for number in range(count)), {})
        self.seconds += time.perf_counter()
        self.root, self.names = root, PackedNames(index)
        self.digest = self.names.digest

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> bytes:
        return Path(self.name(number)).read_bytes()

    def name(self, number: int) -> str:
        return f"{self.root}/{os.fsdecode(self.names[number])}"


class ListedNames(ManyNames):
    """The same names as a list of (path, class) in memory."""

    def __init__(self, packed: ManyNames, count: int) -> None:
        self.digest = "list"
        self.listed = [(packed.name(number), number % 21841) for number in range(count)]

    def __len__(self) -> int:
        return len(self.listed)

    def name(self, number: int) -> str:
        return self.listed[number][0]


def private_mib(pid: int) -> float:
    """Memory of this process alone that cannot be had again from a file: pages of the index count for nobody."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024


def worker_mib(source: Source, steps: int) -> float:
    """Private memory of a worker after `steps` batches and a walk over a hundredth of the names."""
    gc.collect()
    asked = mim_loader(Walking(source), batch_size=BATCH, masks=BlockMasks(), workers=1)
    before = children()
    batches = iter(asked)
    for _ in range(steps):
        next(batches)
    (worker,) = children() - before
    return private_mib(worker)


class Walking(Source):
    """Looks at a thousand names, in order, for each image it reads: a worker sees them all in a long run."""

    def __init__(self, source: Source) -> None:
        self.source, self.digest, self.step = source, source.digest, 0

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, number: int) -> bytes:
        self.step += 1
        for further in range(1000):
            self.source.name((self.step * 1000 + further) * 7 % len(self))
        return self.source[number]

    def name(self, number: int) -> str:
        return self.source.name(number)


def children() -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of classes; by default one is made")
    parser.add_argument("--names", type=int, default=14_200_000)
    parser.add_argument("--peer-names", type=int, default=1_000_000)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["EVA02_MIM_CACHE"] = f"{scratch}/cache"
        folder = options.images or Path(scratch) / "images"
        if options.images is None:
            write_folder(folder)
        source = open_source(folder)
        steps = max(1, min(len(source), 256) // BATCH)
        rates = crops_per_cpu_second(
            {"ours": lambda: ours(source, steps), "published": lambda: published(folder, steps)}, options.passes
        )
        many = ManyNames(folder, Path(scratch) / "index", options.names)
        result = {f"crops_per_cpu_s_{name}": rate for name, rate in rates.items()}
        result |= {"names": options.names, "index_s": many.seconds, "index_mib": size_mib(Path(scratch) / "index")}
        small = worker_mib(source, 40)
        result |= {"worker_mib_small": small, "worker_added_mib_ours": worker_mib(many, 40) - small}
        listed = ListedNames(many, options.peer_names)
        result |= {"peer_names": options.peer_names, "worker_added_mib_list": worker_mib(listed, 40) - small}
    for name, value in result.items():
        print(f"{name:28} {value:14,.1f}")
    print(f"{rates['ours'] / rates['published']:.2f} x the crops of the published way for the same CPU time")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


def size_mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / MIB


if __name__ == "__main__":
    main()
