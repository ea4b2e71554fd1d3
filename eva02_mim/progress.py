"""What a run reports: the log, JSON lines and TensorBoard, with images per second and the share of the peak that is used."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.tensorboard import SummaryWriter

from eva02_det.utils.files import write_text
from eva02_det.utils.lenient import Lenient
from eva02_det.utils.wandb_run import open_run
from eva02_mim.encoder import TrVEncoder
from eva02_mim.hidden import HiddenTokens
from eva02_mim.loss import hidden_token_loss
from eva02_mim.student import MimStudent
from eva02_mim.teacher import Teacher, features_of

LINES, BOARD, WANDB = "metrics.jsonl", "TensorBoard's file", "wandb's files"
# dense bf16 or fp16 teraflops of one device, as its vendor states them
PEAK_TFLOPS = {"H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "V100": 125.0}
logger = logging.getLogger(__name__)


class Speed:
    """Images per second and the model flops utilisation (MFU) between two reports.

    Args:
        images: of one step, all processes together.
        flops_per_image: of the whole step, student and teacher.
        peak_tflops: of all devices together; None where it is not known, and then there is no MFU.
    """

    def __init__(self, images: int, flops_per_image: float, peak_tflops: float | None) -> None:
        self.images, self.flops_per_image, self.peak_tflops = images, flops_per_image, peak_tflops
        self.restart()

    def restart(self) -> None:
        """Begin a stretch: after a report, a validation or a checkpoint."""
        self._steps, self._waited_s, self._since = 0, 0.0, time.perf_counter()

    def step(self, waited_s: float) -> None:
        """A step was taken, `waited_s` of it waiting for data."""
        self._steps += 1
        self._waited_s += waited_s

    def measured(self) -> dict[str, float]:
        """Of this stretch: images_per_s, step_s, data_s (of a step) and mfu (0 to 1). Ask after the device has caught up."""
        step_s = (time.perf_counter() - self._since) / max(self._steps, 1)
        numbers = {"images_per_s": self.images / step_s, "step_s": step_s, "data_s": self._waited_s / max(self._steps, 1)}
        if self.peak_tflops is not None:
            numbers["mfu"] = self.flops_per_image * numbers["images_per_s"] / (self.peak_tflops * 1e12)
        return numbers


def peak_tflops(device: torch.device, stated: float | None = None) -> float | None:
    """Of one device: what the config states, else what its name tells; None for an unknown device."""
    if stated is not None or device.type != "cuda":
        return stated
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def flops_per_image(teacher: Teacher, student: MimStudent, normalise: nn.Module, *, hidden: int) -> float:
    """Operations of a step for each image: counted while one passes teacher and student, and back.

    A multiplication with an addition counts as two. Call it before the student is distributed. Weights, gradients and random
    generators stay as they are.
    """
    device = next(student.parameters()).device
    places = HiddenTokens(torch.arange(hidden, device=device)[None], torch.ones(1, hidden, device=device))

    def loss(image: Tensor) -> Tensor:
        if getattr(teacher, "computes", True):
            targets = features_of(teacher, image, places.index)
        else:  # a cache, which has no features of this image
            targets = torch.zeros(1, hidden, teacher.dim, device=device)
        return hidden_token_loss(student(normalise(image), places), targets, places.weight)

    return counted_flops(student, loss)


def counted_flops(student: TrVEncoder, loss: Callable[[Tensor], Tensor]) -> float:
    """Operations of `loss` on one black uint8 image [1, 3, S, S], and of its gradient; as in `flops_per_image`."""
    device = next(student.parameters()).device
    image = torch.zeros(1, 3, student.image_size, student.image_size, dtype=torch.uint8, device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), FlopCounterMode(display=False) as counter:
        loss(image).backward()
    student.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())


class Reporter:
    """Writes what is reported to the log, metrics.jsonl, TensorBoard and wandb; of all processes the main one does.

    Args:
        folder: of the run.
        steps: of the whole run, for the time that is left.
        start: step that the run goes on from; what was reported of later ones, before the run was stopped, is taken out.
        wandb: `train.wandb`; with a project it gets the numbers too.
    """

    def __init__(self, folder: str | Path, steps: int, *, start: int = 0, wandb: Mapping[str, Any] | None = None) -> None:
        self.folder, self.steps = Path(folder), steps
        self._writes = comm.is_main_process()
        if not self._writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        keep_lines_up_to(self.folder / LINES, start)
        self._lines = (self.folder / LINES).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=start + 1)
        self._wandb = open_run(self.folder, wandb)
        self._lenient = {what: Lenient(what) for what in (LINES, BOARD, WANDB)}

    def train(self, step: int, numbers: Mapping[str, float]) -> None:
        """After `step` steps."""
        if not self._writes:
            return
        left = timedelta(seconds=round(numbers["step_s"] * (self.steps - step)))
        mfu = f"  mfu {numbers['mfu']:.1%}" if "mfu" in numbers else ""
        logger.info(
            "step %d/%d  loss %.4f  lr %.3g  norm %.3f  %.1f images/s (data %.0f %%)%s  left %s",
            step,
            self.steps,
            numbers["loss"],
            numbers["lr"],
            numbers["grad_norm"],
            numbers["images_per_s"],
            100 * numbers["data_s"] / max(numbers["step_s"], 1e-9),
            mfu,
            left,
        )
        self._write(step, numbers)

    def validation(self, step: int, numbers: Mapping[str, float]) -> None:
        """After a validation."""
        if not self._writes:
            return
        logger.info("step %d/%d  %s", step, self.steps, "  ".join(f"{name} {value:.4f}" for name, value in numbers.items()))
        self._write(step, numbers)

    def close(self) -> None:
        """Flush and close everything."""
        if not self._writes:
            return
        self._lenient[LINES](self._lines.close)
        self._lenient[BOARD](self._board.close)
        if self._wandb is not None:
            self._lenient[WANDB](self._wandb.close)

    def _write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._lenient[LINES](partial(self._write_line, {"step": step, **numbers}))
        self._lenient[BOARD](partial(self._draw, step, numbers))
        if self._wandb is not None:
            self._lenient[WANDB](partial(self._wandb.log, step, numbers))

    def _write_line(self, line: Mapping[str, float]) -> None:
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()  # what finds no room stays in the buffer for the next time

    def _draw(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)


def was_reported(folder: str | Path, step: int, name: str) -> bool:
    """Whether the lines of a run's folder have the number `name` of a step."""
    return any(name in line for line in _whole_lines(Path(folder) / LINES) if line["step"] == step)


def keep_lines_up_to(file: Path, step: int) -> None:
    """Remove what a stopped run reported of later steps, and a last line that it did not finish."""
    if file.is_file():
        write_text(file, "".join(json.dumps(line) + "\n" for line in _whole_lines(file) if line["step"] <= step))


def _whole_lines(file: Path) -> list[dict[str, float]]:
    """What was reported, without a line that was cut off in the middle."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            numbers = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "step" in numbers:
            found.append(numbers)
    return found
