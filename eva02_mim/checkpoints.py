"""Checkpoints of a pre-training run: everything that the next step depends on, in one file, whole or not at all."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from eva02_det.checkpoint.host import HostCopies
from eva02_det.checkpoint.io import read_file
from eva02_det.checkpoint.store import CheckpointStore, check_retention
from eva02_det.utils.config import get
from eva02_det.utils.errors import UserError
from eva02_det.utils.processes import on_main
from eva02_det.utils.randomness import random_state, set_random_state
from eva02_det.utils.wandb_run import forget_run
from eva02_mim.parallel import bare, is_sharded

PREFIX, SUFFIX = "checkpoint_", ".pt"
CONTENT = ("model", "optimizer", "step", "parts", "random")
DEFAULTS = {"keep": 3, "every": None, "asynchronous": False}
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)  # sharded or not: the same file
logger = logging.getLogger(__name__)


class Checkpoints:
    """The files `checkpoint_<steps done>.pt` of a folder, written by `CheckpointStore`, which tells of `keep` and `every`.

    A file holds "model" (a plain state dict: it loads into a detector as it is), "optimizer" (by parameter name), "step",
    "parts" (what else has a state_dict: loss scale, guard, position in the data) and "random" (the generators of each rank).
    It is independent of how the student was distributed. asynchronous: the main process writes beside the training; it needs
    host memory for one checkpoint more. beside: what has its own place in the file, by name (averaged weights).
    """

    def __init__(
        self,
        folder: str | Path,
        student: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        keep: int | None = 3,
        every: int | None = None,
        asynchronous: bool = False,
        beside: Mapping[str, Any] | None = None,
    ) -> None:
        check_retention("train.checkpoints", keep, every)
        self.student, self.optimizer, self.beside = bare(student), optimizer, dict(beside or {})
        self.store = store_in(folder, keep=keep, every=every, asynchronous=asynchronous)

    def save(self, step: int, parts: Mapping[str, Any], *, required: bool = False) -> None:
        """Write the state after `step` steps; every rank must call this.

        Where it cannot be written the run goes on with a warning, unless it ends with this one (`required`): then UserError in
        all ranks.
        """
        # what is sharded is gathered in the main process's host memory; else the state is the run's own, still changing
        options = StateDictOptions(full_state_dict=True, cpu_offload=is_sharded(self.student))
        model = get_model_state_dict(self.student, options=options)
        optimizer = get_optimizer_state_dict(self.student, self.optimizer, options=options)
        generators = comm.gather(random_state())
        states = {name: part.state_dict() for name, part in parts.items()}  # in every process: some ask each other
        content = {"model": model, "optimizer": optimizer, "step": step, "random": generators, "parts": states}
        content |= {name: part.state_dict() for name, part in self.beside.items()}
        if required:
            on_main(lambda: self.store.write(step, content, required=True))
        elif comm.is_main_process():
            self.store.write(step, content)

    def finish(self) -> None:
        """Wait until nothing is being written; raises what went wrong."""
        self.store.wait()

    def check(self) -> None:
        """Raise what went wrong in a write beside the training, if one ended since; does not wait."""
        self.store.check()

    def load(self, path: Path, parts: Mapping[str, Any]) -> int:
        """Put everything back and return the number of steps done; every rank must call this."""
        content = read_file(path)
        lost = [key for key in (*CONTENT, *self.beside) if key not in content]
        lost = lost or [key for key in parts if key not in content["parts"]]
        if lost:
            raise UserError(f"checkpoint {path} holds no {', '.join(lost)}, so the run cannot go on from it; start it anew")
        self._check(path, content["model"])
        # both functions keep tensors of what they are given, which lie in the file still
        set_model_state_dict(self.student, HostCopies().take(content["model"]), options=WHOLE)
        set_optimizer_state_dict(self.student, self.optimizer, HostCopies().take(content["optimizer"]), options=WHOLE)
        for name, part in parts.items():
            part.load_state_dict(content["parts"][name])
        for name, part in self.beside.items():
            part.load_state_dict(content[name])
        generators = content["random"]
        if len(generators) == comm.get_world_size():
            set_random_state(generators[comm.get_rank()])
        else:
            logger.warning("%s is of %d processes, not %d: drop path draws anew", path, len(generators), comm.get_world_size())
        logger.info("resumed after step %d from %s", content["step"], path)
        return int(content["step"])

    def remove_leftovers(self) -> None:
        """Parts of files that a killed run did not finish."""
        self.store.remove_leftovers()

    def _check(self, path: Path, weights: Mapping[str, Tensor]) -> None:
        own = {name: tuple(tensor.shape) for name, tensor in self.student.state_dict().items()}
        theirs = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        differing = sorted(name for name in own.keys() | theirs.keys() if own.get(name) != theirs.get(name))
        if differing:
            name = differing[0]
            raise UserError(
                f"checkpoint {path} is of another student: {len(differing)} weights differ, first {name} ({theirs.get(name)} "
                f"there, {own.get(name)} here); resume with the config of the run, or choose another train.output_dir"
            )


def store_in(folder: str | Path, **options: Any) -> CheckpointStore:
    """The store of a run's folder. options: see `CheckpointStore`."""
    return CheckpointStore(folder, prefix=PREFIX, suffix=SUFFIX, **options)


def options_of(settings: DictConfig) -> dict[str, Any]:
    """keep, every and asynchronous of a config's `train`."""
    return {key: get(settings, f"checkpoints.{key}", default) for key, default in DEFAULTS.items()}


def files_of(folder: str | Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return store_in(folder).files()


def newest(folder: str | Path) -> Path | None:
    """The whole checkpoint of the most steps, None where there is none; every rank must ask. See `CheckpointStore.newest`."""
    return on_main(store_in(folder).newest)


def require_own_folder(folder: str | Path, *, resume: bool) -> None:
    """UserError where a run that does not go on with an earlier one would write over it; every rank must ask."""
    found = files_of(folder)
    earlier = comm.all_gather(found[-1] if found else None)[0]
    if earlier is not None and not resume:
        raise UserError(f"{earlier} is of an earlier run; pass --resume to go on with it, or another train.output_dir")
    if not resume:
        forget_run(folder)
