"""How long a checkpoint keeps the training loop from its steps, written at once and beside the training, at B size.

`python benchmarks/bm_checkpoint.py [--recipe coco/eva02_b_1024] [--folder DIR] [--device cuda] [--repeats 3] [--json FILE]`
The state is that of the recipe's detector with AdamW's moments. Beside ours: torch.save as it is, which does not wait for the
disk; the same with fsync; torch.distributed.checkpoint's `save` and `async_save`. In turn, medians over the repeats.

call: until the loop goes on. slower: what the steps taken until the file is on the disk lose against quiet ones.
pause: both together, per save. written: from the call to the end of the write.
"""

import argparse
import json
import logging
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core computes, so that a writer beside it finds another

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn

from eva02_det.checkpoint.checkpointer import DetectorCheckpointer
from eva02_det.checkpoint.integrity import damage
from eva02_det.engine.recipe import load_recipe

from detectron2.config import instantiate  # isort: skip  after the provider is chosen

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
QUIET_STEPS = 5
Done = Callable[[], bool]


class Training:
    """A detector with its optimizer, and steps that compute for a while and change every weight."""

    def __init__(self, recipe: str, device: torch.device) -> None:
        config = load_recipe(ROOT / "projects/eva02/configs" / f"{recipe}.py")
        self.model: nn.Module = instantiate(config.model).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        for weight in self.model.parameters():
            moments = {key: torch.rand_like(weight, requires_grad=False) for key in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[weight] = {"step": torch.tensor(1.0), **moments}
        self._weights = [weight.detach() for weight in self.model.parameters()]
        self._work = torch.rand(1500 if device.type == "cpu" else 8192, 1500 if device.type == "cpu" else 8192, device=device)
        self.device = device

    def step(self) -> float:
        """Seconds that it took."""
        since = time.perf_counter()
        for _ in range(1 if self.device.type == "cpu" else 20):
            self._work @ self._work
        torch._foreach_add_(self._weights, 1e-3)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - since

    def state(self) -> dict[str, Any]:
        """As published peers save it, with keys that all of them take."""
        moments = self.optimizer.state_dict()["state"]
        return {"model": self.model.state_dict(), "optimizer": {str(key): value for key, value in moments.items()}}

    def mark(self) -> float:
        """Tells one step from another."""
        return float(self._weights[0].flatten()[0])


class Ours:
    def __init__(self, training: Training, folder: Path, *, asynchronous: bool) -> None:
        kept = {"optimizer": training.optimizer}
        self.saver = DetectorCheckpointer(training.model, str(folder), keep=1, asynchronous=asynchronous, **kept)

    def save(self, number: int) -> Done:
        self.saver.save(f"model_{number:07d}", iteration=number)
        return self.is_done

    def is_done(self) -> bool:
        writing = self.saver.store._writing
        return writing is None or writing.done()

    def read(self, number: int) -> dict[str, Any]:
        path = self.saver.store.path_of(number)
        assert damage(path) is None, path
        return torch.load(path, weights_only=True, mmap=True)


class Plain:
    def __init__(self, training: Training, folder: Path, *, sync: bool) -> None:
        self.training, self.path, self.sync = training, folder / "model.pth", sync

    def save(self, number: int) -> Done:
        torch.save(self.training.state() | {"iteration": number}, self.path)
        if self.sync:
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        return always

    def read(self, number: int) -> dict[str, Any]:
        return torch.load(self.path, weights_only=True, mmap=True)


class Distributed:
    """torch.distributed.checkpoint: a folder of files for each save."""

    def __init__(self, training: Training, folder: Path, *, asynchronous: bool) -> None:
        self.training, self.folder, self.asynchronous = training, folder, asynchronous

    def save(self, number: int) -> Done:
        shutil.rmtree(self.folder, ignore_errors=True)
        place = {"checkpoint_id": str(self.folder)}
        if not self.asynchronous:
            dcp.save(self.training.state(), **place)
            return always
        writing: Future[Any] = dcp.async_save(self.training.state(), **place)
        return writing.done

    def read(self, number: int) -> dict[str, Any]:
        name, weight = next(iter(self.training.model.state_dict().items()))
        found = {"model": {name: torch.empty_like(weight, device="cpu")}}
        dcp.load(found, checkpoint_id=str(self.folder))
        return found


def always() -> bool:
    return True


def one_save(training: Training, saver: Any, number: int, quiet_s: float) -> dict[str, float]:
    """Save once and go on training until it is written; what that cost, in seconds."""
    first = next(iter(training.model.state_dict()))
    before = training.model.state_dict()[first].cpu().clone()
    since = time.perf_counter()
    done = saver.save(number)
    call = time.perf_counter() - since
    slower, written = 0.0, call
    while not done():
        slower += training.step() - quiet_s
        written = time.perf_counter() - since
    training.step()
    assert torch.equal(saver.read(number)["model"][first], before), "the file holds the weights of another step"
    return {"call_s": call, "slower_s": slower, "pause_s": call + slower, "written_s": written}


def measure(training: Training, folder: Path, repeats: int) -> tuple[dict[str, dict[str, float]], float]:
    """Medians by way of saving, and seconds of a quiet step. The first save of each way, which allocates, is left out."""
    ways = {
        "torch.save": Plain(training, folder / "plain", sync=False),
        "torch.save + fsync": Plain(training, folder / "synced", sync=True),
        "DCP save": Distributed(training, folder / "dcp", asynchronous=False),
        "ours": Ours(training, folder / "ours", asynchronous=False),
        "DCP async_save": Distributed(training, folder / "dcp_async", asynchronous=True),
        "ours, asynchronous": Ours(training, folder / "ours_async", asynchronous=True),
    }
    for way in ("plain", "synced"):
        (folder / way).mkdir()
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    steps: list[float] = []
    for number in range(repeats + 1):
        for name, saver in ways.items():
            os.sync()  # what the one before left in memory is not this one's
            quiet = [training.step() for _ in range(QUIET_STEPS)]
            steps += quiet
            cost = one_save(training, saver, number, statistics.median(quiet))
            if number:
                rows[name].append(cost)
    medians = {name: {key: statistics.median(row[key] for row in found) for key in found[0]} for name, found in rows.items()}
    return medians, statistics.median(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="coco/eva02_b_1024")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the one of temporary files")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1)  # async_save asks for one
        training = Training(options.recipe, torch.device(options.device))
        rows, step_s = measure(training, folder, options.repeats)
        size = max(path.stat().st_size for path in (folder / "ours").iterdir()) / MIB
        dist.destroy_process_group()
    print(f"{options.recipe} on {options.device}: {size:,.0f} MiB a checkpoint; a quiet step takes {step_s:.3f} s")
    print(f"{'':20} {'call s':>8} {'slower s':>8} {'pause s':>8} {'written s':>9}")
    for way, row in rows.items():
        print(f"{way:20} {row['call_s']:8.3f} {row['slower_s']:8.3f} {row['pause_s']:8.3f} {row['written_s']:9.3f}")
    if options.json:
        content = {"recipe": options.recipe, "device": options.device, "mib": size, "step_s": step_s, "rows": rows}
        options.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
