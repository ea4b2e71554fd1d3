"""A linear classifier of fixed features: logistic regression to its optimum, its strength of regularisation by held-out images.

The problem is convex, so that a quasi-Newton method over all images finds the one solution: no rate, schedule, batch or number
of epochs to choose, and the same result on every machine. torch's own L-BFGS does it on any device without a new dependency;
turned to the principal axes of the features it takes a few dozen iterations.

Axes: M images, B of them in a chunk, W width of the features, C classes.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eva02_det.utils.errors import UserError
from eva02_mim.accuracy import BEST
from eva02_mim.features import Floats
from eva02_mim.order import Ints

logger = logging.getLogger(__name__)

STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
CHUNK = 8192  # images at once: their logits for 1000 classes take 33 MB
PATIENCE = 2  # strengths without gain on the held-out images, after which weaker ones are not tried
ROUND = 10  # iterations after which the gradient is looked at
# a round that lowers the objective by a smaller part of it is lost in rounding: the optimum is as near as the precision allows
LEAST_GAIN = {torch.float32: 1e-9, torch.float64: 1e-15}
SMALLEST_SPREAD = 1e-6  # a feature that is the same for all images is not divided by its spread


@dataclass
class Design:
    """Features that are standardised when they are read. rows: [K] those that belong to the problem; None: all."""

    values: Tensor  # fp32 [M, W]
    labels: Tensor  # int64 [M]
    mean: Tensor  # fp64 [W]
    spread: Tensor  # fp64 [W]
    axes: Tensor  # fp64 [W, W], principal axes of the standardised features, in columns
    variances: Tensor  # fp64 [W], along these
    device: torch.device
    dtype: torch.dtype = torch.float32
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels) if self.rows is None else len(self.rows)

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(standardised features [B, W] in `dtype`, labels [B]) of all rows, in order."""
        for first in range(0, len(self), CHUNK):
            part = slice(first, first + CHUNK)
            taken = part if self.rows is None else self.rows[part]
            values = self.values[taken].to(self.device, self.dtype)
            yield (values - self.mean.to(self.dtype)) / self.spread.to(self.dtype), self.labels[taken].to(self.device)

    def only(self, rows: Ints) -> "Design":
        """Some of the rows, standardised as all of them."""
        return replace(self, rows=torch.from_numpy(rows))

    def curvature(self, classes: int, l2: float) -> tuple[Tensor, Tensor]:
        """(axes [W + 1, W + 1], scale [W + 1]): steps of `scale` along the columns of `axes` are about equally curved.

        The bias is the last axis. The curvature of cross-entropy is taken as that of undecided logits, about 1 / C.
        """
        one = torch.ones(1, 1, dtype=self.axes.dtype, device=self.axes.device)
        along = torch.cat((self.variances.clamp(min=0) / classes + l2, one[0] / classes))
        return torch.block_diag(self.axes, one), along.rsqrt()


@dataclass(frozen=True)
class LinearProbe:
    """Solution for raw features x [B, W]: logits x weight^T + bias."""

    weight: Tensor  # fp64 [C, W]
    bias: Tensor  # fp64 [C]
    l2: float
    gradient: float  # largest entry of the objective's gradient there, times C
    iterations: int

    def logits(self, features: Tensor) -> Tensor:
        """[B, W] -> [B, C]."""
        return F.linear(features.to(self.weight), self.weight, self.bias)


@dataclass(frozen=True)
class LinearSolver:
    """Minimises mean cross-entropy + l2 / 2 * |weight|^2 (the bias goes free) over standardised features.

    Args:
        l2: strengths to choose from. Each is solved on a part of the training images, from strong to weak, and scored on the
            rest; the best is solved again on all of them. One strength alone is taken as it is.
        held_out: share of each class that the strengths are scored on.
        tolerance: the optimum is reached where no entry of the gradient exceeds tolerance / C.
        max_iterations: of one solution; a solution that would need more is said to be unfinished.
        precision: "fp32" or "fp64" of the products; weights, loss and gradient are kept in fp64 either way.
    """

    l2: Sequence[float] = STRENGTHS
    held_out: float = 0.1
    tolerance: float = 1e-3
    max_iterations: int = 1000
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.l2 or min(self.l2) <= 0:
            raise UserError(f"solver.l2={list(self.l2)} must hold one strength or more, all above 0")
        if not 0 < self.held_out < 1:
            raise UserError(f"solver.held_out={self.held_out} is no share of the training images; choose one between 0 and 1")
        if self.precision not in ("fp32", "fp64"):
            raise UserError(f"solver.precision={self.precision} is not one of fp32, fp64")

    def __call__(self, features: Floats, labels: Ints, images: int, classes: int, device: torch.device) -> LinearProbe:
        """[V * M, W] and [V * M], the first `images` = M rows being those of different images -> the solution."""
        design = design_of(features, labels, device, torch.float64 if self.precision == "fp64" else torch.float32)
        start = torch.zeros(classes, features.shape[1] + 1, dtype=torch.float64, device=device)
        strength = self.l2[0]
        if len(self.l2) > 1:
            strength, start = self._choose(design, images, start)
        solution, iterations, gradient = self._solve(design, start, strength)
        if gradient > self.tolerance:
            remedy = "raise solver.max_iterations" if iterations >= self.max_iterations else "set solver.precision=fp64"
            logger.warning(
                "the linear head is not at its optimum after %d iterations: gradient %.1e, tolerance %.1e; %s",
                *(iterations, gradient, self.tolerance, remedy),
            )
        weight = solution[:, :-1] / design.spread
        return LinearProbe(weight, solution[:, -1] - weight @ design.mean, strength, gradient, iterations)

    def _choose(self, design: Design, images: int, start: Tensor) -> tuple[float, Tensor]:
        """(the strength with the best top-1 on the held-out images, the strongest of equals; its solution)."""
        held = held_out_images(design.labels[:images].numpy(force=True), self.held_out, self.seed)
        if not held.any():
            raise UserError("every class has one training image, so none can be held out; give one strength: solver.l2=[1e-3]")
        within = np.tile(held, len(design) // images)  # all visits of an image are on one side
        fit, check = design.only(np.flatnonzero(~within)), design.only(np.flatnonzero(within))
        best, chosen, without_gain, scores = -1.0, (self.l2[0], start), 0, []
        tried = sorted(self.l2, reverse=True)
        for strength in tried:
            start, iterations, _ = self._solve(fit, start, strength)
            scores.append(top1 := top_of(check, start)[0])
            logger.info("l2=%.0e: top-1 %.3f %% of %d held-out crops, %d iterations", strength, top1, len(check), iterations)
            if top1 > best:
                best, chosen, without_gain = top1, (strength, start), 0
            else:
                without_gain += 1
            if without_gain == PATIENCE:
                break
        if chosen[0] == tried[-1] or (chosen[0] == tried[0] and scores.count(best) == 1):
            logger.warning("the best l2=%.0e is at the end of those tried; widen solver.l2", chosen[0])
        return chosen

    def _solve(self, design: Design, start: Tensor, l2: float) -> tuple[Tensor, int, float]:
        """(weights and biases [C, W + 1], iterations, largest entry of the gradient times C) from `start`.

        The search goes over u in solution = (u * scale) axes^T, where the objective is about equally curved in all directions.
        """
        axes, scale = design.curvature(len(start), l2)
        u = (start @ axes / scale).requires_grad_()

        def closure() -> Tensor:
            loss, gradient = objective(design, (u.detach() * scale) @ axes.T, l2)
            u.grad = gradient @ axes * scale
            return loss

        search = torch.optim.LBFGS(
            [u], max_iter=ROUND, max_eval=2 * ROUND, tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe"
        )
        solution, before = start, float("inf")
        loss, gradient = (value.abs().max().item() for value in objective(design, solution, l2))
        done, least = 0, 1 - LEAST_GAIN[design.dtype]
        while done < self.max_iterations and gradient * len(start) > self.tolerance and loss < before * least:
            before = loss
            search.step(closure)
            done = int(search.state[u]["n_iter"])
            solution = (u.detach() * scale) @ axes.T
            loss, gradient = (value.abs().max().item() for value in objective(design, solution, l2))
        return solution, done, gradient * len(start)


def objective(design: Design, solution: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy + l2 / 2 * |weight|^2 and its gradient [C, W + 1], in fp64, chunk by chunk."""
    weight, bias = solution[:, :-1], solution[:, -1]
    loss = l2 / 2 * weight.square().sum()
    gradient = torch.cat((l2 * weight, torch.zeros_like(bias)[:, None]), 1)
    used, shift = weight.to(design.dtype), bias.to(design.dtype)
    for features, labels in design.chunks():
        # only the products in the design's precision: what the line search compares must not be lost in rounding
        logits = F.linear(features, used, shift).double()
        loss = loss + F.cross_entropy(logits, labels, reduction="sum") / len(design)
        excess = logits.softmax(1)
        excess[torch.arange(len(labels), device=labels.device), labels] -= 1
        gradient[:, :-1] += (excess.to(design.dtype).T @ features).double() / len(design)
        gradient[:, -1] += excess.sum(0) / len(design)
    return loss, gradient


def design_of(features: Floats, labels: Ints, device: torch.device, dtype: torch.dtype) -> Design:
    """Features with their statistics, on a GPU if they fill at most half of what is free there."""
    values = torch.from_numpy(features)
    if device.type == "cuda" and features.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
        values = values.to(device)
    width = features.shape[1]
    design = Design(
        values=values,
        labels=torch.from_numpy(labels).to(values.device),
        mean=torch.zeros(width, dtype=torch.float64, device=device),
        spread=torch.ones(width, dtype=torch.float64, device=device),
        axes=torch.eye(width, dtype=torch.float64, device=device),
        variances=torch.ones(width, dtype=torch.float64, device=device),
        device=device,
        dtype=dtype,
    )
    design.mean = sum((chunk.double().sum(0) for chunk, _ in design.chunks()), design.mean) / len(values)
    squares = sum((chunk.double().square().sum(0) for chunk, _ in design.chunks()), 0 * design.spread)
    spread = (squares / len(values)).sqrt()
    design.spread = torch.where(spread > SMALLEST_SPREAD, spread, torch.ones_like(spread))
    covariance = sum(((chunk.T @ chunk).double() for chunk, _ in design.chunks()), 0 * design.axes) / len(values)
    design.variances, design.axes = torch.linalg.eigh(covariance)
    return design


def held_out_images(labels: Ints, share: float, seed: int) -> np.ndarray:
    """bool [M]: `share` of each class, rounded, at least one image of a class of two or more, never all of a class."""
    draw = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        own = draw.permutation(np.flatnonzero(labels == label))
        held[own[: min(max(round(share * len(own)), 1), len(own) - 1)]] = True
    return held


def top_of(design: Design, solution: Tensor) -> tuple[float, float]:
    """(top-1, top-5) in per cent of the rows."""
    counts = torch.zeros(2, dtype=torch.int64, device=design.device)
    weight, bias = solution[:, :-1].to(design.dtype), solution[:, -1].to(design.dtype)
    for features, labels in design.chunks():
        best = F.linear(features, weight, bias).topk(min(BEST, len(bias)), dim=1).indices
        solved = best == labels[:, None]
        counts += torch.stack((solved[:, 0].sum(), solved.any(1).sum()))
    top1, top5 = (100 * counts / len(design)).tolist()
    return top1, top5
