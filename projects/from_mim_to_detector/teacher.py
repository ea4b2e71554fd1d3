"""The teacher: a small convolutional network that learns to tell which class of object lies in each part of each patch.

Its labels come from rendered scenes that nobody else uses. What it hands on is not the classes but the features before them:
they hold outlines too, which the classes of whole patches do not need.

Axes: B images, N = G * G patches (row by row), S pixels of a side, W width of the features.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eva02_det.checkpoint.io import read_file, state_dict_of, write_weights
from eva02_mim.normalise import CLIP_MEAN, CLIP_STD, Normalise
from eva02_mim.teacher import FrozenTeacher
from eva02_mim.towers import Tower
from projects.demo.scenes import CLASSES, render_scene

PATCH, WIDTH = 8, 128
CELLS = 4  # of a side of a patch: the teacher tells the class in each of 4 x 4
KINDS = 1 + len(CLASSES)  # ground is one
CHANNELS = (32, 64, WIDTH)  # of the maps of stride 2, 4 and 8
SMALLEST_CROP = 0.7  # of the side of a scene
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """How long and on what the teacher is trained."""

    scenes: int = 3000
    pixels: int = 64
    steps: int = 600
    batch: int = 32
    peak_lr: float = 3e-3
    seed: int = 0
    scenes_seed: int = 1000


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_convolution(channels, channels), *_convolution(channels, channels)[:-1])

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(maps + self.layers(maps))


class PatchClassifier(nn.Module):
    """`tokens`: normalised images [B, 3, S, S] -> features [B, N, W]; `head`: these -> scores of all kinds in all cells."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        fine, middle, coarse = *CHANNELS[:2], width
        self.tokens = nn.Sequential(
            *_convolution(3, fine, stride=2, side=5),
            Residual(fine),
            *_convolution(fine, middle, stride=2),
            Residual(middle),
            *_convolution(middle, coarse, stride=2),
            Residual(coarse),
            Residual(coarse),
            Rows(coarse),
        )
        self.head = nn.Sequential(nn.Linear(width, CELLS**2 * KINDS), nn.Unflatten(-1, (CELLS**2, KINDS)))

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, N, cells, kinds]."""
        return self.head(self.tokens(images))


class Rows(nn.Module):
    """[B, W, G, G] -> [B, N, W], normalised so that no feature is common to all patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(maps.flatten(2)).transpose(1, 2)


def _convolution(before: int, after: int, *, stride: int = 1, side: int = 3) -> list[nn.Module]:
    return [nn.Conv2d(before, after, side, stride, side // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]


def scene_teacher(weights: str | Path, *, image_size: int = 64, device: str = "cpu") -> FrozenTeacher:
    """The trained teacher; crops of another size are resized to `image_size`."""
    network = PatchClassifier()
    network.load_state_dict(state_dict_of(read_file(weights), weights))
    tower = Tower("scene teacher", network.tokens, nn.Identity(), dim=WIDTH, patch_size=PATCH, image_size=image_size)
    return FrozenTeacher(tower, dtype="fp32", device=device, resize=True)


def labelled_scenes(plan: Training, split: str, count: int) -> tuple[Tensor, Tensor]:
    """Scenes [B, 3, S, S] uint8 and the class of every pixel [B, S, S] uint8, 0 for the ground."""
    images = np.empty((count, plan.pixels, plan.pixels, 3), np.uint8)
    classes = np.zeros((count, plan.pixels, plan.pixels), np.uint8)
    for index in range(count):
        scene = render_scene(plan.scenes_seed, split, index, pixels=plan.pixels)
        images[index] = scene.image
        for kind, mask in zip(scene.kinds, scene.masks):
            classes[index][mask] = 1 + CLASSES.index(kind)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(classes)


def cell_labels(classes: Tensor, patch: int = PATCH) -> Tensor:
    """Class that covers most of each cell: [B, S, S] -> [B, N, cells]."""
    shares = F.one_hot(classes.long(), KINDS).permute(0, 3, 1, 2).float()
    cells = F.avg_pool2d(shares, patch // CELLS).argmax(1)
    return cells.unfold(1, CELLS, CELLS).unfold(2, CELLS, CELLS).flatten(1, 2).flatten(2)


def varied(images: Tensor, classes: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A random square of a batch, enlarged to its size, mirrored or turned by quarters: all images of it alike."""
    side = images.shape[-1]
    part = int(side * draw.uniform(SMALLEST_CROP, 1))
    top, left = draw.integers(0, side - part + 1, 2)
    pixels = images[..., top : top + part, left : left + part].float()
    pixels = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False)
    kinds = F.interpolate(classes[:, None, top : top + part, left : left + part].float(), (side, side), mode="nearest")[:, 0]
    turns, mirrored = int(draw.integers(4)), bool(draw.integers(2))
    pixels, kinds = torch.rot90(pixels, turns, (-2, -1)), torch.rot90(kinds, turns, (-2, -1))
    return (pixels.flip(-1), kinds.flip(-1)) if mirrored else (pixels, kinds)


def batches(images: Tensor, classes: Tensor, plan: Training) -> Iterator[tuple[Tensor, Tensor]]:
    """`plan.steps` random batches: pixels in 0 .. 255 [B, 3, S, S] and labels [B, N, cells]."""
    draw = np.random.default_rng(plan.seed)
    for _ in range(plan.steps):
        chosen = torch.from_numpy(draw.choice(len(images), min(plan.batch, len(images)), replace=False))
        pixels, kinds = varied(images[chosen], classes[chosen], draw)
        yield pixels, cell_labels(kinds)


def train_teacher(target: str | Path, plan: Training = Training()) -> float:
    """Train and write a teacher; returns the share of cells on objects of held-out scenes whose class it tells."""
    images, classes = labelled_scenes(plan, "train", plan.scenes)
    torch.manual_seed(plan.seed)
    network, normalise = PatchClassifier(), Normalise(CLIP_MEAN, CLIP_STD)
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.peak_lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.peak_lr, total_steps=plan.steps, pct_start=0.1)
    since = time.perf_counter()
    for step, (pixels, labels) in enumerate(batches(images, classes, plan), start=1):
        loss = F.cross_entropy(network(normalise(pixels.round().to(torch.uint8))).flatten(0, 2), labels.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == plan.steps:
            logger.info("teacher: step %d/%d  loss %.3f  %.0f s", step, plan.steps, loss.item(), time.perf_counter() - since)
    found = accuracy(network, plan)
    write_weights(target, network.state_dict())
    logger.info("teacher: tells %.1f %% of the cells on objects of held-out scenes; wrote %s", 100 * found, target)
    return found


@torch.no_grad()
def accuracy(network: PatchClassifier, plan: Training, count: int = 100) -> float:
    """Share of the cells of held-out scenes that lie on an object and are given its class."""
    images, classes = labelled_scenes(plan, "val", count)
    network.eval()
    told = network(Normalise(CLIP_MEAN, CLIP_STD)(images)).argmax(-1)
    network.train()
    labels = cell_labels(classes)
    return float((told == labels)[labels > 0].float().mean())
