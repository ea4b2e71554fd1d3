"""Makes the parts of a run from its config, and refuses values that could only fail later."""

import logging
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from eva02_det.checkpoint.load import load_weights
from eva02_det.utils.config import accepts, get
from eva02_det.utils.errors import UserError
from eva02_mim.cached_targets import CachedBatches
from eva02_mim.compiling import require_compiler
from eva02_mim.encoder import TrVEncoder
from eva02_mim.loader import MimLoader, ValidationLoader
from eva02_mim.parallel import STRATEGIES
from eva02_mim.precision import PRECISIONS
from eva02_mim.schedules import WarmupCosine
from eva02_mim.step import AVERAGES
from eva02_mim.student import MimStudent
from eva02_mim.teacher import Teacher, check_teacher, choose_scores
from eva02_mim.teacher_cache import CachedTeacher

logger = logging.getLogger(__name__)


def check_settings(config: DictConfig) -> None:
    """UserError for a value of `train` that names nothing or cannot be."""
    settings = config.train
    for key, known in (("precision", tuple(PRECISIONS)), ("parallel", STRATEGIES), ("average", AVERAGES)):
        if settings[key] not in known:
            raise UserError(f"train.{key}={settings[key]} is not one of {', '.join(known)}")
    for key in ("batch", "accumulate", "log_period", "checkpoints.period"):
        if get(settings, key, 0) < 1:
            raise UserError(f"train.{key}={get(settings, key)} must be at least 1")
    if settings.max_steps is None and settings.epochs < 1:
        raise UserError(f"train.epochs={settings.epochs} must be at least 1, or set train.max_steps")
    device_of(config)


def device_of(config: DictConfig) -> torch.device:
    """`train.device`; "auto" is this process's GPU where there is one."""
    name = config.train.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"train.device={name}, but no CUDA device is visible; pass train.device=cpu or run on a GPU node")
    return torch.device("cuda", torch.cuda.current_device()) if name == "cuda" else torch.device(name)


def share_of_batch(config: DictConfig, processes: int) -> int:
    """Images of a step in each process."""
    batch, parts = config.train.batch, processes * config.train.accumulate
    if batch % parts:
        raise UserError(
            f"train.batch={batch} does not split over {processes} processes x train.accumulate={config.train.accumulate}; "
            f"change one of them so that {batch} is a multiple of their product"
        )
    return batch // processes


def open_data(config: DictConfig, *, rank: int, world: int) -> tuple[MimLoader, ValidationLoader | None]:
    """(endless training batches of process `rank`, its validation batches or None)."""
    share, place = share_of_batch(config, world), {"rank": rank, "world": world}
    if get(config, "train.teacher_cache", ""):
        config.dataloader.train.fixed_crops = True
    loader = made_with(config.dataloader.train, batch_size=share, seed=config.train.seed, **place)
    if get(config, "dataloader.validation") is None:
        return loader, None
    return loader, made_with(config.dataloader.validation, batch_size=share // config.train.accumulate, **place)


def plan(config: DictConfig, steps_per_epoch: int) -> tuple[int, WarmupCosine]:
    """(steps of the run, learning rate of each): `train.epochs` of the data, or `train.max_steps`."""
    steps = config.train.max_steps or config.train.epochs * steps_per_epoch
    warmup = round(config.schedule.warmup_epochs * steps_per_epoch)
    return steps, WarmupCosine(config.schedule.peak_lr, config.schedule.min_lr, steps, warmup)


def build_teacher(config: DictConfig, device: torch.device) -> Teacher:
    """The frozen teacher on `device`."""
    try:
        return made_with(config.teacher, **({"device": str(device)} if accepts(config.teacher, "device") else {}))
    except (TypeError, ValueError) as error:
        raise UserError(f"the config's teacher cannot be built: {error}; correct teacher.*") from error


def use_cache(config: DictConfig, loader: MimLoader, device: torch.device, *, alive: bool) -> tuple[Teacher, Teacher]:
    """(what training learns from, what the step may ask): the teacher, or the cache of train.teacher_cache.

    From a cache `loader` hands out the features too. The teacher is built nevertheless, for its weights must be those of the
    cache; it is kept on `device` only where it stays `alive`, for validation, whose crops no cache holds.
    """
    folder = get(config, "train.teacher_cache", "")
    if not folder:
        teacher = build_teacher(config, device)
        return teacher, teacher
    cache = CachedTeacher(folder)
    loader.dataset = CachedBatches(loader.dataset, cache)
    teacher = build_teacher(config, device if alive else torch.device("cpu"))
    if not isinstance(teacher, nn.Module):
        raise UserError(f"train.teacher_cache={folder} and a teacher that is a cache itself do not go together; leave one out")
    cache.require_teacher(teacher)
    logger.info("features come from %s; every image has one fixed crop", cache.name)
    return cache, teacher if alive else cache


def build_student(config: DictConfig, device: torch.device, *, anew: bool = True) -> MimStudent:
    """The student with the weights of `train.seed`, or `anew` those of `train.init_checkpoint`, on `device`."""
    torch.manual_seed(config.train.seed)  # the same weights on all ranks
    student = _instance(config.student).to(device)
    start = get(config, "train.init_checkpoint", "")
    if start and anew:
        load_weights(student, start, new_weights=tuple(config.train.new_weights))
    if device.type == "cpu" and config.train.precision == "bf16":
        choose_scores(student)
    logger.info("student of %s parameters", f"{sum(p.numel() for p in student.parameters()):,}")
    return student


def outline_student(config: DictConfig) -> MimStudent:
    """The student of the config without memory for its weights."""
    with torch.device("meta"):
        return _instance(config.student)


def _instance(node: DictConfig) -> MimStudent:
    try:
        return instantiate(node)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"the config's student cannot be built: {error}; correct student.*") from error


def require_match(student: MimStudent, loader: MimLoader, teacher: Teacher | None = None) -> None:
    """UserError unless the crops are what the student sees and the teacher's features what it predicts."""
    require_crops(student, loader.dataset.image_size, loader.dataset.masks.grid)
    if teacher is not None:
        patch = student.image_size // student.grid
        check_teacher(teacher, target_dim=student.lm_head.out_features, image_size=student.image_size, patch_size=patch)


def require_crops(student: MimStudent, image_size: int, grid: int) -> None:
    """UserError unless crops of so many px, in grid x grid patches, are what the student sees."""
    if (image_size, grid) != (student.image_size, student.grid):
        raise UserError(
            f"crops of {image_size} px in {grid} x {grid} patches do not fit a student of {student.image_size} px in "
            f"{student.grid} x {student.grid}; set image_size, patch_size and masks.grid of dataloader.train as in student"
        )


def build_optimizer(config: DictConfig, student: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of the config over the parameters of the student, sharded or not."""
    config.optimizer.params.model = student
    optimizer = instantiate(config.optimizer)
    config.optimizer.params.model = None  # the config stays a description: it can be copied, saved and used again
    return optimizer


def compile_blocks(student: TrVEncoder) -> None:
    """Compile each block for the static shapes of a step; before the student is distributed."""
    require_compiler(next(student.parameters()).device)
    for block in student.blocks:
        block.compile()


def made_with(node: DictConfig, **values: Any) -> Any:
    """What a config node builds with what only the run knows."""
    for key, value in values.items():
        node[key] = value
    return instantiate(node)
