"""Says what a training run would do, from its config alone: nothing is trained, no weights are read, no GPU is used."""

import copy
from collections.abc import Iterator
from pathlib import Path

from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig
from torch import nn

from eva02_det.data.objects365 import TRAINVAL, TRAINVAL_PARTS
from eva02_det.data.registration import register_builtin, require_datasets
from eva02_det.engine.memory import GIB, SLACK, MemoryEstimate, build_on_meta, estimate_memory
from eva02_det.engine.scaling import apply_scaling, images_per_step, memory_limit, warmup_iterations
from eva02_det.utils.config import get
from eva02_det.utils.errors import UserError

# published numbers of images, for a machine without the data; Objects365 without the three that were never released
IMAGES = {"coco_2017_train": 118_287, "lvis_v1_train": 100_170, "objects365_train": 1_742_289, "objects365_val": 80_000}
INDENT = 16  # columns of the headings


def dry_run(config: DictConfig, processes: int) -> str:
    """The plan of the run on so many processes (one per GPU), in lines; the last ones say what could not be checked.

    `config` itself is left alone. Raises UserError where the run could not start: a model that cannot be built, images that
    cannot be shared, memory that does not suffice.
    """
    config = copy.deepcopy(config)
    said = apply_scaling(config, processes)
    model = build_on_meta(config)
    each = int(config.dataloader.train.total_batch_size) // processes
    unchecked: list[str] = []
    sections = {
        "scaling": said,
        "parameters": list(_parameters(model)),
        "memory": list(_memory(estimate_memory(config, processes, model), each)),
        "data": list(_data(config, unchecked)),
        "steps": list(_steps(config)),
        "learning rate": list(_learning_rates(config, model)),
        "test": list(_test(config)),
        "weights": list(_weights(config, unchecked)),
    }
    limit = memory_limit(config)
    if limit is None:
        unchecked.append("whether it fits: there is no GPU here; train.memory_gib=N plans for one of N GiB")
    unchecked.append("memory and speed on a GPU: the estimate is a formula that was compared with runs on the CPU only")
    sections["not checked"] = unchecked
    return "\n".join(line for heading, lines in sections.items() for line in _block(heading, lines))


def _block(heading: str, lines: list[str]) -> Iterator[str]:
    for index, line in enumerate(lines):
        yield f"{heading if index == 0 else '':<{INDENT}}{line}"


def _parameters(model: nn.Module) -> Iterator[str]:
    net = getattr(model.backbone, "net", model.backbone)
    parts = {
        "net": _count(net),
        "pyramid": _count(model.backbone) - _count(net),
        "proposals": _count(model.proposal_generator),
        "heads": _count(model.roi_heads),
    }
    yield f"{_count(model):,} = " + " + ".join(f"{name} {number:,}" for name, number in parts.items())
    fixed = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    if fixed:
        yield f"{fixed:,} of them are not trained"


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _memory(memory: MemoryEstimate, images: int) -> Iterator[str]:
    yield f"about {memory.total_gib(images):.1f} GiB a process with {images} images at a time, of which in GiB"
    yield "always: " + ", ".join(f"{name} {size / GIB:.2f}" for name, size in memory.fixed.items())
    yield f"an image: {', '.join(f'{name} {size / GIB:.2f}' for name, size in memory.per_image.items())}, and {SLACK:.0%} more"


def _data(config: DictConfig, unchecked: list[str]) -> Iterator[str]:
    register_builtin()
    for part in ("train", "test"):
        names = _names(config, part)
        yield f"{part}: {', '.join(names) or 'none'}"
        missing = [name for name in names if not _is_here(name)]
        if missing:
            unchecked.append(f"data: {', '.join(missing)} not found here (DETECTRON2_DATASETS)")
        found = [name for name in names if name not in missing]
        if found:
            unchecked.append(f"data: {', '.join(found)} is here, but was not opened; tools/check_datasets.py does that")
    threshold = get(config, "dataloader.train.repeat_threshold")
    if threshold is not None:
        yield f"images of classes in less than {threshold:g} of all images are drawn more often (repeat-factor sampling)"


def _names(config: DictConfig, part: str) -> list[str]:
    names = get(config, f"dataloader.{part}.dataset.names", [])
    listed = [names] if isinstance(names, str) else list(names)
    return [one for name in listed for one in (TRAINVAL_PARTS if name == TRAINVAL else (name,))]


def _is_here(name: str) -> bool:
    """Whether the annotation file of a data set exists; it is not opened."""
    if name not in DatasetCatalog.list():
        try:
            require_datasets(name)
        except UserError:
            return False
    file = MetadataCatalog.get(name).get("json_file")
    return bool(file) and Path(file).is_file()


def _steps(config: DictConfig) -> Iterator[str]:
    steps, images = config.train.max_iter, images_per_step(config)
    names = _names(config, "train")
    known = sum(IMAGES.get(name, 0) for name in names) if all(name in IMAGES for name in names) else 0
    passes = f" = {steps * images / known:.1f} passes over the {known:,} published ones" if known else ""
    yield f"{steps:,} iterations of {images} images = {steps * images:,} images{passes}"
    kept = get(config, "train.checkpointer.max_to_keep", "all")
    for word, key, rest in (("evaluated", "eval_period", ""), ("saved", "checkpointer.period", f", {kept} kept")):
        period = get(config, f"train.{key}", 0)
        yield f"{word} {-(-steps // period)} times, every {period:,} iterations{rest}" if period else f"never {word}"
    precision = get(config, "train.amp.precision") if get(config, "train.amp.enabled", False) else "fp32"
    clip = get(config, "train.clip_grad_norm")
    clipping = "gradients are not clipped" if clip is None else f"gradients are clipped to a norm of {clip:g}"
    yield f"backbone in {precision}, heads in fp32; {clipping}"


def _learning_rates(config: DictConfig, model: nn.Module) -> Iterator[str]:
    config.optimizer.params.model = model
    groups = instantiate(config.optimizer.params)
    config.optimizer.params.model = None
    rates, decays = ({group.get(key) for group in groups} for key in ("lr", "weight_decay"))
    base = get(config, "optimizer.lr")
    yield (
        f"{base:.4g}; {len(groups)} groups of parameters from {min(rates):.4g} (x {min(rates) / base:.4g}) to {max(rates):.4g}, "
        f"weight decay {' or '.join(f'{decay:g}' for decay in sorted(decays))}"
    )
    steps, factor = config.train.max_iter, instantiate(config.lr_multiplier)
    places = {0, warmup_iterations(config), steps // 2, steps - 1, *get(config, "lr_multiplier.scheduler.milestones", ())}
    shown = ", ".join(f"{place:,}: {factor(place / steps):.4g}" for place in sorted(places) if place < steps)
    yield f"times, at iteration: {shown}"


def _test(config: DictConfig) -> Iterator[str]:
    protocol = get(config, "protocol", "custom")
    yield f"protocol {protocol if isinstance(protocol, str) else protocol.name}"
    heads = config.model.roi_heads
    for key in ("select_boxes", "rescore_masks", "mask_budget"):
        if get(heads, key) is not None:
            yield str(instantiate(heads[key]))
    if get(config, "train.ema.decay") is not None:
        yield f"weight average of decay {config.train.ema.decay:g}; evaluated: {config.train.ema.evaluate}"


def _weights(config: DictConfig, unchecked: list[str]) -> Iterator[str]:
    start = get(config, "train.init_checkpoint", "")
    yield f"from {start or 'random values'}"
    new = get(config, "train.new_weights", [])
    if new:
        yield f"start anew: {', '.join(new)}"
    if "://" in start or start.startswith("timm/"):
        unchecked.append(f"weights: {start} is fetched when the run starts; whether it is at hand and fits the model")
    elif start and not Path(start).exists():
        unchecked.append(f"weights: {start} does not exist here")
    elif start:
        unchecked.append(f"weights: whether {start} fits the model")
