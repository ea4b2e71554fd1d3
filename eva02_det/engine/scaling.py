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

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from detectron2.utils import comm
from omegaconf import DictConfig, ListConfig, OmegaConf

from eva02_det.engine.memory import GIB, MemoryEstimate, estimate_memory
from eva02_det.utils.config import accepts, get
from eva02_det.utils.errors import UserError

LR_RULES = {"sqrt": 0.5, "linear": 1.0, "none": 0.0}  # exponent of k
HEADROOM = 0.95  # of the memory that the estimate may fill
LOADER = "dataloader.train.total_batch_size"


@dataclass(frozen=True)
class MemoryLimit:
    """GiB that a process may use, and where the figure is from."""

    gib: float
    source: str

    @property
    def usable(self) -> float:
        return HEADROOM * self.gib

    @property
    def chosen(self) -> bool:
        """Set by the user, so that what does not fit is an error and not a remark."""
        return self.source == "train.memory_gib"


def apply_scaling(config: DictConfig, processes: int) -> list[str]:
    """Change `config` as the rule above says for `processes` processes (one per GPU); returns what was done, a sentence each.

    Raises UserError where images, processes and memory do not go together. To be called on every rank, before anything is built.
    """
    if get(config, LOADER) is None:
        return []
    for key in (LOADER, "train.accumulate", "train.batch"):
        value = get(config, key, 1)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{key}={value} must be a whole number, at least 1")
    return [*_change_batch(config), *_share(config, processes)]


def images_per_step(config: DictConfig) -> int:
    """Images that one optimiser step sees, over all processes and accumulated loader batches."""
    return int(get(config, LOADER)) * int(get(config, "train.accumulate", 1))


def warmup_iterations(config: DictConfig) -> int:
    """Length of the warm-up; 0 where the schedule has none."""
    return round(get(config, "lr_multiplier.warmup_length", 0.0) * config.train.max_iter)


def _change_batch(config: DictConfig) -> list[str]:
    """Carry out `train.batch`."""
    old, new = images_per_step(config), get(config, "train.batch")
    if new is None or new == old:
        return []
    rule = get(config, "train.lr_rule", "sqrt")
    if rule not in LR_RULES:
        raise UserError(f"train.lr_rule={rule} is not known; choose one of {', '.join(LR_RULES)}")
    k, before, warmup = new / old, config.train.max_iter, warmup_iterations(config)
    milestones = _stretch(config, 1 / k)
    said = [
        f"train.batch={new} in place of {old} images a step: {before:,} -> {config.train.max_iter:,} iterations, "
        f"the same {old * before:,} images; warm-up {warmup:,} -> {warmup_iterations(config):,} iterations{milestones}; "
        f"checkpoints every {config.train.checkpointer.period:,}, evaluations every {config.train.eval_period:,}"
    ]
    for node, key in _learning_rates(config):
        rate = node[key]
        node[key] = rate * k ** LR_RULES[rule]
        said.append(f"learning rate {rate:g} -> {node[key]:.4g} (train.lr_rule={rule})")
    decay = get(config, "train.ema.decay")
    if decay is not None:
        config.train.ema.decay = decay**k
        said.append(f"decay of the weight average {decay:g} -> {config.train.ema.decay:.6g}, to the power {k:g}")
    config.dataloader.train.total_batch_size, config.train.accumulate = new, 1
    return said


def _stretch(config: DictConfig, factor: float) -> str:
    """Multiply all that is counted in iterations; says what became of milestones. The warm-up, a share of the run, follows."""
    said = ""
    for key in ("max_iter", "eval_period", "checkpointer.period"):
        if get(config.train, key):  # 0: never
            OmegaConf.update(config.train, key, _whole(config.train, key, factor))
    for node, key in _counters(config.lr_multiplier):
        if not isinstance(node[key], ListConfig):
            node[key] = _whole(node, key, factor)
            continue
        old, new = list(node[key]), [max(1, round(one * factor)) for one in node[key]]
        if len({*new, config.train.max_iter}) <= len(new):
            raise UserError(
                f"train.batch={config.train.batch} leaves {config.train.max_iter} iterations, too few for the milestones {old}; "
                "choose a smaller batch"
            )
        node[key] = new
        said += f"; milestones {', '.join(f'{one:,}' for one in old)} -> {', '.join(f'{one:,}' for one in new)}"
    return said


def _whole(node: DictConfig, key: str, factor: float) -> int:
    return max(1, round(get(node, key) * factor))


def _counters(schedule: DictConfig) -> Iterator[tuple[DictConfig, str]]:
    """Where a tree of schedulers counts in iterations rather than in shares of the run."""
    yield from ((schedule, key) for key in ("milestones", "num_updates") if get(schedule, key) is not None)
    for child in schedule.values():
        if isinstance(child, DictConfig):
            yield from _counters(child)


def _learning_rates(config: DictConfig) -> Iterator[tuple[DictConfig, str]]:
    """The places that hold the base learning rate as a number of their own."""
    for node, key in ((get(config, "optimizer"), "lr"), (get(config, "optimizer.params"), "base_lr")):
        if isinstance(node, DictConfig) and get(node, key) is not None and not OmegaConf.is_interpolation(node, key):
            yield node, key


def memory_limit(config: DictConfig) -> MemoryLimit | None:
    """`train.memory_gib`; without it the memory of the smallest GPU of the run; None where there is no GPU."""
    chosen = get(config, "train.memory_gib")
    if chosen is not None:
        if chosen <= 0:
            raise UserError(f"train.memory_gib={chosen} must be above 0")
        return MemoryLimit(float(chosen), "train.memory_gib")
    mine = None
    if torch.cuda.is_available() and str(get(config, "train.device", "auto")).startswith(("auto", "cuda")):
        mine = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / GIB
    everyones = [one for one in comm.all_gather(mine) if one is not None]
    return MemoryLimit(min(everyones), "the memory of the GPU") if everyones else None


def _share(config: DictConfig, processes: int) -> list[str]:
    """Choose `accumulate` so that each process gets whole images that fit; the images of a step stay."""
    images, accumulate = images_per_step(config), int(get(config, "train.accumulate", 1))
    _require_even_shares(images, processes)
    choices = [n for n in range(1, images // processes + 1) if images // processes % n == 0]  # loader batches per step
    limit, said = memory_limit(config), []
    if limit is not None:
        memory, said = _memory_within(config, processes, limit)
        choices = [n for n in choices if memory.total_gib(images // processes // n) <= limit.usable] or choices[-1:]
    chosen = accumulate if accumulate in choices else choices[0]
    each = images // processes // chosen
    config.dataloader.train.total_batch_size, config.train.accumulate = images // chosen, chosen
    one, batches = _plural("image", each), f" x {chosen} loader batches" if chosen > 1 else ""
    said.insert(0, f"{images} images a step = {processes} {_plural('process', processes)} x {each} {one}{batches}")
    if limit is not None:
        said.append(f"that needs about {memory.total_gib(each):.1f} GiB of {limit.gib:.1f} GiB a process ({limit.source})")
    if chosen > 1 and any(get(stage, "use_fed_loss") for stage in get(config, "model.roi_heads.box_predictors", [])):
        said.append(f"the federated loss draws its classes for every process and loader batch, here {each} {one}")
    return said


def _require_even_shares(images: int, processes: int) -> None:
    if images % processes == 0:
        return
    fitting = [n for n in range(1, images + 1) if images % n == 0]
    below, above = [n for n in fitting if n < processes][-1:], [n for n in fitting if n > processes][:1]
    raise UserError(
        f"{images} images a step cannot be shared evenly by {processes} processes; use "
        f"{' or '.join(map(str, [*below, *above]))} processes, or train.batch={max(1, round(images / processes)) * processes}"
    )


def _memory_within(config: DictConfig, processes: int, limit: MemoryLimit) -> tuple[MemoryEstimate, list[str]]:
    """The estimate; where not even one image fits, activation checkpointing, which changes no result, is switched on."""
    said: list[str] = []
    memory = estimate_memory(config, processes)
    net = get(config, "model.backbone.net")
    if memory.total_gib(1) > limit.usable and accepts(net, "use_act_checkpoint") and not get(net, "use_act_checkpoint", False):
        net.use_act_checkpoint = True
        memory = estimate_memory(config, processes)
        said.append("activation checkpointing is switched on, as one image does not fit without: the same results, slower steps")
    if memory.total_gib(1) <= limit.usable:
        return memory, said
    need = f"{memory.total_gib(1):.1f} GiB"
    problem = f"by the estimate one image needs {need}, more than {HEADROOM:.0%} of {limit.gib:.1f} GiB ({limit.source})"
    if limit.chosen:
        raise UserError(f"{problem}; use a smaller model or image, or GPUs with more memory")
    return memory, [*said, f"{problem}; it may not fit"]


def _plural(word: str, number: int) -> str:
    return word if number == 1 else f"{word}es" if word.endswith("s") else f"{word}s"
