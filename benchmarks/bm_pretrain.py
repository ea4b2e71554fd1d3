"""One whole pre-training step, student and teacher, beside the plain step that the published code describes, in the same run.

`python benchmarks/bm_pretrain.py [--device cuda] [--dtype bf16] [--json FILE]`. The student has B's shape cut to 4 of its 12
blocks, the teacher g's cut to 4 of 40; --student-depth 12 --teacher-depth 40 are the real ones. Both sides start from equal
weights, see equal crops and masks, and must give the same losses; they run in turn (A B A B ...), medians. Then parts of the two
steps are timed alone. On a CPU that others use too, --clock cpu --threads 1 counts the processor time of this process.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timm
import torch
from torch import Tensor, nn

import eva02_det  # noqa: F401  activates the provider of detectron2
from benchmarks.plain_mim import PlainStep, adamw, plain_predictions
from eva02_mim.hidden import HiddenTokens, hidden_mask
from eva02_mim.masking import BlockMasks
from eva02_mim.normalise import Normalise
from eva02_mim.precision import autocast
from eva02_mim.step import Batch, PretrainStep
from eva02_mim.student import MimStudent
from eva02_mim.teacher import FrozenTeacher, compile_blocks, features_of
from eva02_mim.towers import EVA_CLIP_G, tower_of_timm

WIDTH, HEADS = 768, 12  # of B
LR = 1.5e-3
Work = Callable[[], object]


class Sides:
    """Both steps from equal weights, on equal crops and masks."""

    def __init__(self, options: argparse.Namespace) -> None:
        device, self.precision = torch.device(options.device), options.dtype
        low = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
        torch.manual_seed(0)
        scores = options.device == "cpu" and options.dtype == "bf16"  # what a run takes there, see choose_scores
        kernel = ("math" if scores else "sdpa") if options.attention == "auto" else options.attention
        student = MimStudent(WIDTH, options.student_depth, HEADS, attention=kernel).to(device)
        trunk = timm.create_model(EVA_CLIP_G, depth=options.teacher_depth).to(device).requires_grad_(False)
        self.batch = drawn(options.batch, device)
        self.mask = hidden_mask(self.batch.hidden, student.num_patches)
        self.normalise = Normalise().to(device)
        self.images = self.normalise(self.batch.images), self.normalise(self.batch.images)  # the host sends it twice
        plain = copy.deepcopy(student)
        teacher = FrozenTeacher(tower_of_timm(copy.deepcopy(trunk), "g", project=True), dtype=options.dtype, device=device)
        for block in trunk.blocks:
            block.attn.fused_attn = options.plain_attention == "sdpa"
        self.plain = PlainStep(plain, trunk, adamw(plain, fused=True), low, scores=options.plain_attention == "scores")
        if options.compile:
            compile_blocks(teacher)
            for block in student.blocks:
                block.compile()
        self.ours = PretrainStep(student, teacher, adamw(student, fused=True), self.normalise, device, options.dtype)

    def losses(self, steps: int) -> list[tuple[float, float]]:
        """(ours, plain) of the first steps."""
        return [(float(self.our_step()), self.plain_step()) for _ in range(steps)]

    def our_step(self) -> Tensor:
        return self.ours(self.batch, LR).loss

    def plain_step(self) -> float:
        return self.plain(*self.images, self.mask)

    def parts(self) -> dict[str, tuple[Work, Work]]:
        """What the steps are made of, (ours, plain): the teacher, and the student there and back."""
        return {
            "teacher": (self.our_targets, self.plain_targets),
            "student, forward and backward": (self.our_student, self.plain_student),
        }

    def our_targets(self) -> Tensor:
        return features_of(self.ours.teacher, self.batch.images, self.batch.hidden.index)

    def plain_targets(self) -> Tensor:
        trunk = self.plain.teacher
        with torch.no_grad(), autocast(self.precision, self.ours.device):
            return trunk.head(trunk.forward_features(self.images[1])[:, 1:])[self.mask]

    def our_student(self) -> None:
        with autocast(self.precision, self.ours.device):
            predictions = self.ours.student(self.normalise(self.batch.images), self.batch.hidden)
        backward(predictions, self.ours.student)

    def plain_student(self) -> None:
        with autocast(self.precision, self.ours.device):
            predictions = plain_predictions(self.plain.student, self.images[0], self.mask, self.plain.scores)
        backward(predictions, self.plain.student)


def backward(predictions: Tensor, student: nn.Module) -> None:
    predictions.float().square().mean().backward()
    student.zero_grad(set_to_none=True)


def drawn(batch: int, device: torch.device) -> Batch:
    """Random crops with masks of the published law."""
    pixels = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    masks = [BlockMasks().hidden(0, 0, number) for number in range(batch)]
    index, weight = (torch.stack(column).to(device) for column in zip(*masks))
    return Batch(pixels.to(device), HiddenTokens(index, weight), torch.arange(batch))


def seconds(work: Work, device: str, clock: str) -> float:
    now = time.process_time if clock == "cpu" else time.perf_counter
    start = now()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return now() - start


def in_turn(ours: Work, plain: Work, options: argparse.Namespace) -> dict[str, float]:
    """Medians of both, seconds."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(options.repeats):
        for work, collected in zip((ours, plain), times):
            collected.append(seconds(work, options.device, options.clock))
    mine, theirs = (statistics.median(collected) for collected in times)
    return {"ours_s": mine, "plain_s": theirs, "ratio": theirs / mine}


def shown(name: str, row: dict[str, float], batch: int) -> str:
    rates = f"{batch / row['ours_s']:9.2f} {batch / row['plain_s']:9.2f}"
    return f"{name:32} {row['ours_s']:8.3f} {row['plain_s']:8.3f} {rates} {row['ratio']:6.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--student-depth", type=int, default=4)
    parser.add_argument("--teacher-depth", type=int, default=4)
    parser.add_argument("--attention", default="auto", choices=("auto", "sdpa", "math"), help="of our student")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile of our blocks (train.compile, compiled=True)"
    )
    parser.add_argument("--plain-attention", default="sdpa", choices=("sdpa", "scores"), help="scores: all of them in memory")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sides = Sides(options)
    losses = sides.losses(2)  # warms up, too
    worst = max(abs(ours - plain) for ours, plain in losses)
    if worst > (1e-5 if options.dtype == "fp32" else 5e-3):
        raise SystemExit(f"the two steps do not compute the same: losses {losses}")
    works = {"whole step": (sides.our_step, sides.plain_step), **sides.parts()}
    rows = {name: in_turn(*pair, options) for name, pair in works.items()}
    print(f"batch {options.batch}, {options.dtype}, {options.device}, losses agree to {worst:.1e}")
    print(f"{'':32} {'ours s':>8} {'plain s':>8} {'ours im/s':>9} {'plain im/s':>9} {'ratio':>6}")
    print("\n".join(shown(name, row, options.batch) for name, row in rows.items()))
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options) | {"json": None}, "losses": losses, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
