"""Fits a recipe to the machine at hand by one stated rule, and says in sentences what it did.

The rule. Fewer GPUs or less memory change nothing but the number of loader batches that make one step: the published images
per step are kept by accumulation. An explicit `train.batch` changes the step itself; then with k = new / old images per step

    iterations, milestones, warm-up, periods   times 1 / k       the run still sees the same number of images
    learning rate                              times sqrt(k)     `train.lr_rule`: sqrt, linear (times k) or none
    decay of the weight average                to the power k

sqrt is the rule for Adam-like optimisers (Malladi et al., arXiv:2205.10287), linear that for SGD (Goyal et al.,
arXiv:1706.02677), the decay that of Busbridge et al. (arXiv:2307.13813). Images per step are always
`dataloader.train.total_batch_size` x `train.accumulate`, so a config that was scaled, saved and loaded is not scaled again.
"""

import math
from collections.abc import Iterator

import torch
from detectron2.utils import comm
from omegaconf import DictConfig, ListConfig, OmegaConf

from eva02_det.engine.memory import GIB, MemoryEstimate, estimate_memory
from eva02_det.utils.config import accepts, get
from eva02_det.utils.errors import UserError

LR_RULES = {"sqrt": 0.5, "linear": 1.0, "none": 0.0}  # exponent of k
REFERENCES = {"sqrt": "sqrt rule, arXiv:2205.10287", "linear": "linear rule, arXiv:1706.02677", "none": "train.lr_rule=none"}
LOADER = "dataloader.train.total_batch_size"


def apply_scaling(config: DictConfig, processes: int) -> list[str]:
    """Change `config` as the rule above says for `processes` processes (one per GPU); returns what was done, a sentence each.

    Raises UserError where images, processes and memory do not go together. To be called on every rank, before anything is built.
    """
    if get(config, LOADER) is None:
        return []
    said = _change_batch(config)
    said += _share(config, processes, *_memory_limit(config))
    return said


def images_per_step(config: DictConfig) -> int:
    """Images that one optimiser step sees, over all processes and accumulated loader batches."""
    return int(get(config, LOADER)) * int(get(config, "train.accumulate", 1))


def _change_batch(config: DictConfig) -> list[str]:
    old, new = images_per_step(config), get(config, "train.batch")
    if new is None or new == old:
        return []
    if not isinstance(new, int) or new < 1:
        raise UserError(f"train.batch={new} must be a whole number of images, at least 1")
    rule = get(config, "train.lr_rule", "sqrt")
    if rule not in LR_RULES:
        raise UserError(f"train.lr_rule={rule} is not known; choose one of {', '.join(LR_RULES)}")
    k = new / old
    said = [f"train.batch={new}: {new} images a step in place of {old}, and the same {old * config.train.max_iter:,} images in all"]
    said += [f"{key}: {before:,} -> {after:,}" for key, before, after in _stretch(config, 1 / k)]
    for node, key in _learning_rates(config):
        before, node[key] = node[key], node[key] * k ** LR_RULES[rule]
        said.append(f"learning rate: {before:g} -> {node[key]:.4g} ({REFERENCES[rule]})")
    decay = get(config, "train.ema.decay")
    if decay is not None:
        config.train.ema.decay = decay**k
        said.append(f"decay of the weight average: {decay:g} -> {decay**k:.6g} (the power {k:g}, arXiv:2307.13813)")
    config.dataloader.train.total_batch_size, config.train.accumulate = new, 1
    return said


def _stretch(config: DictConfig, factor: float) -> Iterator[tuple[str, int, int]]:
    """Multiply all that is counted in iterations; yields (name, before, after). The warm-up is a share of the run: it follows."""
    warmup = get(config, "lr_multiplier.warmup_length")
    before, after = config.train.max_iter, _whole(config.train.max_iter * factor)
    if warmup is not None:
        yield "warm-up iterations", round(warmup * before), round(warmup * after)
    places = [(config, "train.max_iter"), (config, "train.eval_period"), (config, "train.checkpointer.period")]
    for node, key in [*places, *_counters(config.lr_multiplier)]:
        value = get(node, key)
        if isinstance(value, ListConfig):
            scaled = [_whole(entry * factor) for entry in value]
            if len(set(scaled)) < len(scaled):
                raise UserError(f"train.batch={config.train.batch} leaves {after} iterations, too few for milestones at {list(value)}")
            for entry, result in zip(value, scaled):
                yield "milestone", entry, result
            node[key] = scaled
        elif value:
            yield key.removeprefix("train."), value, _whole(value * factor)
            OmegaConf.update(node, key, _whole(value * factor))


def _counters(schedule: DictConfig) -> Iterator[tuple[DictConfig, str]]:
    """Where a tree of schedulers counts in iterations rather than in shares of the run."""
    for key in ("milestones", "num_updates"):
        if get(schedule, key) is not None:
            yield schedule, key
    for key in schedule:
        if isinstance(schedule[key], DictConfig):
            yield from _counters(schedule[key])


def _whole(iterations: float) -> int:
    return max(1, round(iterations))


def _learning_rates(config: DictConfig) -> Iterator[tuple[DictConfig, str]]:
    """The places that hold the base learning rate as a number of their own."""
    for node, key in ((config.optimizer, "lr"), (get(config, "optimizer.params"), "base_lr")):
        if isinstance(node, DictConfig) and key in node and not OmegaConf.is_interpolation(node, key) and node[key] is not None:
            yield node, key


def _memory_limit(config: DictConfig) -> tuple[float | None, str]:
    """GiB that a process may use and where the figure is from: `train.memory_gib`, else the smallest GPU of the run, else none."""
    limit = get(config, "train.memory_gib")
    if limit is not None:
        if limit <= 0:
            raise UserError(f"train.memory_gib={limit} must be above 0")
        return float(limit), "train.memory_gib"
    mine = None
    if torch.cuda.is_available() and str(get(config, "train.device", "auto")).startswith(("auto", "cuda")):
        mine = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / GIB
    everyones = [one for one in comm.all_gather(mine) if one is not None]
    return (min(everyones), "the memory of the GPU") if everyones else (None, "")


def _share(config: DictConfig, processes: int, limit: float | None, source: str) -> list[str]:
    """Choose `accumulate` so that each process gets whole images that fit; the images of a step stay."""
    images, accumulate = images_per_step(config), int(get(config, "train.accumulate", 1))
    if images % processes:
        fitting = [n for n in range(1, images + 1) if images % n == 0]
        raise UserError(
            f"{images} images a step cannot be shared evenly by {processes} processes; use {_near(fitting, processes)} processes, "
            f"or train.batch={max(1, round(images / processes)) * processes}"
        )
    shares = [n for n in range(1, images // processes + 1) if images // processes % n == 0]  # loader batches per step
    said: list[str] = []
    if limit is not None:
        memory = _memory(config, limit, source, said)
        shares = [n for n in shares if memory.total_gib(images // processes // n) <= limit] or shares[-1:]
    chosen = accumulate if accumulate in shares else shares[0]
    per_process = images // processes // chosen
    config.dataloader.train.total_batch_size, config.train.accumulate = images // chosen, chosen
    parts = f"{processes} x {per_process}" + (f", accumulated over {chosen} loader batches" if chosen > 1 else "")
    said.insert(0, f"{images} images a step = {parts}")
    if limit is not None:
        need = memory.total_gib(per_process)
        said.append(f"about {need:.1f} GiB a process for {_plural(per_process)}, of {limit:.1f} GiB ({source})")
    if chosen > 1 and any(get(one, "use_fed_loss") for one in get(config, "model.roi_heads.box_predictors", [])):
        said.append(f"the federated loss draws its classes for each process and loader batch, that is for {_plural(per_process)}")
    return said


def _memory(config: DictConfig, limit: float, source: str, said: list[str]) -> MemoryEstimate:
    """The estimate; where not even one image fits, activation checkpointing, which changes no result, is switched on."""
    memory = estimate_memory(config)
    net = get(config, "model.backbone.net")
    if memory.total_gib(1) > limit and net is not None and accepts(net, "use_act_checkpoint") and not get(net, "use_act_checkpoint"):
        net.use_act_checkpoint = True
        memory = estimate_memory(config)
        said.append("activation checkpointing is switched on, as not even one image fits without; results stay the same, steps take longer")
    if memory.total_gib(1) <= limit:
        return memory
    if source == "train.memory_gib":
        raise UserError(
            f"one image needs about {memory.total_gib(1):.1f} GiB, more than train.memory_gib={limit:g}; "
            "use a smaller model or image, or GPUs with more memory"
        )
    said.append(f"by the estimate one image needs {memory.total_gib(1):.1f} GiB, more than {limit:.1f} GiB ({source}); it may not fit")
    return memory


def _near(choices: list[int], wanted: int) -> str:
    """The closest choices below and above."""
    below = [n for n in choices if n < wanted][-1:]
    above = [n for n in choices if n > wanted][:1]
    return " or ".join(map(str, [*below, *above]))


def _plural(images: int) -> str:
    return f"{images} image" + ("" if images == 1 else "s")
