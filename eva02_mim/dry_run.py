"""Says what a pre-training run would do without doing it: no weights are loaded, and the data need not be there."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from eva02_det.utils.config import get
from eva02_det.utils.errors import UserError
from eva02_mim import build
from eva02_mim.encoder import cached_table
from eva02_mim.groups import decay_groups
from eva02_mim.hidden import HiddenTokens
from eva02_mim.loader import check_sizes
from eva02_mim.precision import autocast
from eva02_mim.student import MimStudent
from eva02_mim.teacher import TIMM, FrozenTeacher, SeededTeacher, check_teacher, load_teacher
from eva02_mim.teacher_cache import CachedTeacher, read_description
from eva02_mim.towers import Wanted, timm_outline

GIB = 2**30


@dataclass(frozen=True)
class Outline:
    """What is known of a teacher before it is loaded; None: only its weights tell."""

    text: str
    gib: float | None = None  # of its weights


def describe(config: DictConfig, processes: int) -> str:
    """What a run of `config` in so many processes would do, in lines.

    Raises:
        UserError: for what cannot be: a batch that does not split, a student, crops and a teacher that do not fit each other.
    """
    share = build.share_of_batch(config, processes)
    student = build.outline_student(config)
    groups = [sum(p.numel() for p in group["params"]) for group in decay_groups(student, weight_decay=1.0)]
    crops = config.dataloader.train
    masks = instantiate(crops.masks)
    grid = check_sizes(crops.image_size, crops.patch_size, masks.grid)
    build.require_crops(student, crops.image_size, grid)
    teacher = outline_teacher(config, student)
    images, data = _images(config, processes)
    settings = config.train
    lines = {
        "student": f"{sum(groups):,} parameters ({groups[1]:,} decayed), {student.image_size} px, {student.num_patches} patches",
        "teacher": teacher.text + _cached(config),
        "data": data,
        "validation": "none" if get(config, "dataloader.validation") is None else _validation(config),
        "masks": f"at most {masks.count} of {masks.grid**2} patches",
        **_steps(config, images, processes, share),
        "step": f"{settings.precision}, {settings.parallel}, gradient norm at most {settings.clip_grad_norm}",
        "memory": _memory(config, student, teacher, processes, share // settings.accumulate),
        "output": f"{settings.output_dir}, a checkpoint every {settings.checkpoints.period:,} steps",
    }
    width = max(map(len, lines))
    return "\n".join(f"{key:<{width}}  {text}" for key, text in lines.items())


def outline_teacher(config: DictConfig, student: MimStudent) -> Outline:
    """What is known of the config's teacher without its weights; UserError where it is known not to fit the student."""
    node, known = config.teacher, None
    stated = ", ".join(f"{key}={value}" for key, value in node.items() if key != "_target_")
    made = getattr(node._target_, "__name__", str(node._target_).rpartition(".")[2])
    if made in (SeededTeacher.__name__, CachedTeacher.__name__):
        known = instantiate(node)
    elif made == load_teacher.__name__ and str(node.source).startswith(TIMM):
        wanted = Wanted(node.get("project", True), node.get("image_size"), node.get("options"))
        tower = timm_outline(str(node.source).removeprefix(TIMM), wanted)
        known = FrozenTeacher(tower, dtype=node.get("dtype", "bf16"), device="meta", resize=node.get("resize", False))
    if known is None:
        return Outline(f"{stated}; its size and width are known when it is loaded")
    patch = student.image_size // student.grid
    check_teacher(known, target_dim=student.lm_head.out_features, image_size=student.image_size, patch_size=patch)
    weights = list(known.parameters()) if isinstance(known, nn.Module) else []
    parameters = sum(p.numel() for p in weights)
    text = f"{stated}: {parameters:,} parameters, {known.dim} features a patch"
    return Outline(text, sum(p.numel() * p.itemsize for p in weights) / GIB)


def stated_images(node: Any) -> int | None:
    """Images of a source as its config states them, `expected` or a mixture's sum; None where it does not."""
    if "sources" in node:
        counts = [stated_images(part) for part in node.sources]
        whole = None if None in counts else sum(count or 0 for count in counts)
        return node.get("epoch_images") or whole
    return node.get("expected")


def _cached(config: DictConfig) -> str:
    """Where the features come from, if not from the teacher itself."""
    folder = get(config, "train.teacher_cache", "")
    if not folder:
        return ""
    description = read_description(Path(folder))
    return f"; the features of {description.count:,} fixed crops come from {folder}"


def _images(config: DictConfig, processes: int) -> tuple[int | None, str]:
    """Images of an epoch, and the line about them."""
    try:
        instantiate(config.dataloader.train.source)
    except UserError as error:
        stated = stated_images(config.dataloader.train.source)
        number = "an unknown number of images" if stated is None else f"{stated:,} images an epoch, as its config states"
        return stated, f"{number}; it is not here: {error}"
    loader, _ = build.open_data(config, rank=0, world=processes)
    return loader.images_per_epoch, f"{loader.images_per_epoch:,} images an epoch"


def _validation(config: DictConfig) -> str:
    node = config.dataloader.validation.source
    try:
        return f"{len(instantiate(node)):,} images"
    except UserError as error:
        return f"not here: {error}"


def _steps(config: DictConfig, images: int | None, processes: int, share: int) -> dict[str, str]:
    """Lines that depend on how many images there are."""
    settings, of_epoch = config.train, None if images is None else images // config.train.batch
    if of_epoch == 0:
        raise UserError(f"an epoch of {images} images does not fill one batch of {settings.batch}; lower train.batch")
    parts = f"in {settings.accumulate} parts of {share // settings.accumulate}"
    batch = f"{share} images in each of {processes} processes, {parts}"
    peak, floor = config.schedule.peak_lr, config.schedule.min_lr
    warmup = f"{config.schedule.warmup_epochs:g} epochs"
    if of_epoch is None:
        steps = f"{settings.max_steps:,}" if settings.max_steps else f"unknown, {settings.epochs} epochs"
        return {
            "steps": f"{steps} of {settings.batch} images; how many in an epoch depends on the data",
            "batch": batch,
            "learning rate": f"0 -> {peak:g} in {warmup}, then a cosine to {floor:g}",
        }
    planned, schedule = build.plan(config, of_epoch)
    return {
        "steps": f"{planned:,} of {settings.batch} images, {of_epoch:,} in an epoch",
        "epochs": f"{planned / of_epoch:g}",
        "batch": f"{batch}; {of_epoch * share:,} images of an epoch in each process, others in the next",
        "learning rate": f"0 -> {peak:g} in {schedule.warmup:,} steps ({warmup}), then a cosine to {floor:g}",
    }


def _memory(config: DictConfig, student: MimStudent, teacher: Outline, processes: int, images: int) -> str:
    """Of one device: an estimate from below, for buffers and the allocator come on top."""
    shards = processes if config.train.parallel == "fsdp" else 1
    learnt = sum(p.numel() for p in student.parameters()) * 16 / shards / GIB  # weights, gradients, two moments in fp32
    slots, precision = instantiate(config.dataloader.train.masks).count, config.train.precision
    one, two = (saved_bytes(student, count, slots, precision) for count in (1, 2))  # weights in low precision are kept once
    kept = (one + (images - 1) * (two - one)) / GIB
    held = "unknown" if teacher.gib is None else f"{teacher.gib:.1f}"
    return (
        f"at least {learnt + kept + (teacher.gib or 0):.1f} GiB a process: student with gradients and moments {learnt:.1f}, "
        f"activations of {images} images {kept:.1f}, teacher {held}"
    )


def saved_bytes(student: MimStudent, count: int, slots: int, precision: str) -> int:
    """Bytes that the forward pass of `count` images keeps for the backward pass, counted without memory; student on meta."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
        return tensor

    def back(tensor: Tensor) -> Tensor:
        return tensor

    student = copy.deepcopy(student)
    cached_table.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        student = student.to_empty(device="cpu").train()
        images = torch.zeros(count, 3, student.image_size, student.image_size)
        hidden = HiddenTokens(torch.zeros(count, slots, dtype=torch.int64), torch.ones(count, slots))
        with torch.autograd.graph.saved_tensors_hooks(note, back), autocast(precision, torch.device("cpu")):
            _ = student(images, hidden)
    cached_table.cache_clear()  # of tables without memory
    return sum(kept.values())
