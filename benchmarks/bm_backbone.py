"""TrV beside timm's Eva class at equal shape, and a windowed 1024-px TrV beside a plain network of the same weights.

`python benchmarks/bm_backbone.py [--device cuda] [--dtype bf16] [--json FILE]`. Width, heads and window are those of B, the
depth is cut. Both sides run in turn (A B A B ...) in one process; medians in milliseconds; ratio = their time / ours.
Memory is what the pass itself adds to a process that holds the model. On a CPU that others use too, `--clock cpu
--threads 1` counts the processor time of this process instead of the time on the wall.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from timm.models.eva import Eva
from torch import Tensor, nn

from benchmarks.plain_trv import plain_forward
from eva02_det.modeling.vit import Positions, TrV

WIDTH, DEPTH, HEADS, WINDOW = 768, 4, 12, 16
Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    against: str  # "timm" or "plain"
    image_px: int
    batch: int
    backward: bool

    @property
    def label(self) -> str:
        what = "forward+backward" if self.backward else "forward"
        return f"{self.against}, {self.image_px} px, {(self.image_px // 16) ** 2} tokens, batch {self.batch}, {what}"


@dataclass(frozen=True)
class Result:
    """Times in milliseconds, memory in GiB."""

    case: str
    ours_ms: float
    theirs_ms: float
    ratio: float
    ours_gib: float | None = None
    theirs_gib: float | None = None


CASES = [Case("timm", px, batch, backward) for px, batch in ((224, 1), (224, 8), (512, 2)) for backward in (False, True)]
CASES += [Case("plain", 1024, 1, backward) for backward in (False, True)]


def sides(case: Case, device: str) -> tuple[dict[str, Forward], list[nn.Module]]:
    """{"ours": forward, "theirs": forward} with equal weights, and the modules that own them."""
    torch.manual_seed(0)
    if case.against == "plain":
        ours = TrV(WIDTH, DEPTH, HEADS, window_size=WINDOW, global_block_indexes=(DEPTH - 1,)).to(device)
        return {"ours": partial(last_feature, ours), "theirs": partial(plain_forward, ours)}, [ours]
    positions = Positions(case.image_px // 16, cls_token=False)
    ours = TrV(WIDTH, DEPTH, HEADS, global_block_indexes=range(DEPTH), positions=positions).to(device)
    theirs = timm_eva(case.image_px).to(device)
    copy_weights(ours, theirs)
    return {"ours": partial(last_feature, ours), "theirs": partial(eva_feature, theirs)}, [ours, theirs]


def last_feature(model: TrV, images: Tensor) -> Tensor:
    return model(images)["last_feat"]


def eva_feature(model: Eva, images: Tensor) -> Tensor:
    side = images.shape[-1] // 16
    return model.forward_features(images).transpose(1, 2).unflatten(2, (side, side))


def timm_eva(image_px: int) -> Eva:
    """EVA-02-B of timm without class token and final norm, cut to our depth."""
    return Eva(
        img_size=image_px,
        num_classes=0,
        global_pool="",
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=8 / 3,
        qkv_fused=False,
        swiglu_mlp=True,
        scale_mlp=True,
        class_token=False,
        use_rot_pos_emb=True,
        ref_feat_shape=(16, 16),
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_post_transformer_norm=False,
    )


def copy_weights(ours: TrV, theirs: Eva) -> None:
    names = {"w1": "fc1_g", "w2": "fc1_x", "w3": "fc2", "ffn_ln": "norm", "q_bias": "q_proj.bias", "v_bias": "v_proj.bias"}
    weights = {".".join(names.get(part, part) for part in key.split(".")): value for key, value in ours.state_dict().items()}
    unexpected = theirs.load_state_dict(weights, strict=False).unexpected_keys
    if unexpected:
        raise KeyError(f"not in timm's model: {unexpected}")


def one_pass(case: Case, forward: Forward, modules: list[nn.Module], images: Tensor, precision: torch.dtype) -> Tensor:
    """The measured work; a training pass ends with all gradients computed and freed."""
    with torch.set_grad_enabled(case.backward), torch.autocast(images.device.type, precision, precision != torch.float32):
        features = forward(images)
    if case.backward:
        features.float().square().mean().backward()
        for module in modules:
            module.zero_grad(set_to_none=True)
    return features.detach()


def milliseconds(work: Callable[[], object], device: str, clock: str) -> float:
    now = time.process_time if clock == "cpu" else time.perf_counter
    synchronise(device)
    start = now()
    work()
    synchronise(device)
    return 1e3 * (now() - start)


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def prepared(case: Case, device: str, precision: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """Both sides, ready to run."""
    forwards, modules = sides(case, device)
    for module in modules:
        module.train(case.backward)
    images = torch.randn(case.batch, 3, case.image_px, case.image_px, device=device)
    return {name: partial(one_pass, case, forward, modules, images, precision) for name, forward in forwards.items()}


def measure(case: Case, device: str, dtype: str, *, clock: str, seconds: float) -> Result:
    """Medians of interleaved repeats that fill about `seconds`; outputs must agree first."""
    precision = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    work = prepared(case, device, precision)
    tolerance = 1e-3 if dtype == "fp32" else 0.3
    torch.testing.assert_close(work["ours"](), work["theirs"](), rtol=tolerance, atol=tolerance)
    pair = milliseconds(work["ours"], device, "wall") + milliseconds(work["theirs"], device, "wall")
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(min(100, max(3, int(1e3 * seconds / pair)))):
        for name, collected in times.items():
            collected.append(milliseconds(work[name], device, clock))
    ours, theirs = statistics.median(times["ours"]), statistics.median(times["theirs"])
    return Result(case.label, ours, theirs, theirs / ours)


def peak_gib(case: Case, side: str, device: str, dtype: str) -> float:
    """Memory that one side needs beyond what is resident before: of the GPU, or of a fresh process on the CPU."""
    if device == "cuda":
        work = prepared(case, device, {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])[side]
        work()
        resting = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return (torch.cuda.max_memory_allocated() - resting) / 2**30
    arguments = ["--peak-of", json.dumps([asdict(case), side]), "--dtype", dtype, "--threads", str(torch.get_num_threads())]
    # large tensors then go back to the system when freed, so that resident memory is what is in use
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout)


def own_peak_gib(case: Case, side: str, dtype: str) -> float:
    """How far one pass lifts the resident memory of this process above its level before."""
    precision = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    prepared(replace(case, image_px=WINDOW * 16), "cpu", precision)[side]()  # libraries allocate their workspaces here
    work = prepared(case, "cpu", precision)[side]
    resting = memory_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    work()
    return (memory_kib("VmHWM") - resting) / 2**20


def memory_kib(name: str) -> int:
    """A line of /proc/self/status (Linux); getrusage would count the parent's peak too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def table(results: list[Result]) -> Iterator[str]:
    yield f"{'case':58} {'ours ms':>9} {'theirs ms':>9} {'ratio':>6} {'ours GiB':>9} {'theirs GiB':>10}"
    for r in results:
        memory = f"{r.ours_gib:9.3f} {r.theirs_gib:10.3f}" if r.ours_gib is not None else ""
        yield f"{r.case:58} {r.ours_ms:9.1f} {r.theirs_ms:9.1f} {r.ratio:6.2f} {memory}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"), help="bf16: autocast")
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"))
    parser.add_argument("--seconds", type=float, default=6, help="time for each line")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak_of:
        case, side = json.loads(options.peak_of)
        print(own_peak_gib(Case(**case), side, options.dtype))
        return
    results = []
    for case in CASES:
        result = measure(case, options.device, options.dtype, clock=options.clock, seconds=options.seconds)
        if case.against == "plain":
            ours, theirs = (peak_gib(case, side, options.device, options.dtype) for side in ("ours", "theirs"))
            result = replace(result, ours_gib=ours, theirs_gib=theirs)
        results.append(result)
    print("\n".join(table(results)))
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
