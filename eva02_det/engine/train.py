"""A training or evaluation run of a LazyConfig, from the config to the last checkpoint."""

import logging
import random
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.engine import create_ddp_model, default_writers, hooks
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn

from eva02_det.checkpoint.checkpointer import DetectorCheckpointer
from eva02_det.engine.evaluate import Evaluation
from eva02_det.engine.trainer import Trainer
from eva02_det.utils.config import accepts, get
from eva02_det.utils.errors import UserError

PRECISIONS = ("fp32", "bf16", "fp16")
logger = logging.getLogger("eva02_det")


def train(config: DictConfig, *, resume: bool = False) -> OrderedDict[str, Any]:
    """Train to `train.max_iter`, evaluating every `train.eval_period`; returns the last evaluation.

    Data are opened before the model is built: what is missing is found before a GPU is used.
    """
    check_train_options(config)
    loader = instantiate(config.dataloader.train)
    evaluation = Evaluation(config) if get(config, "dataloader.evaluator") is not None else None
    model = build_model(config)
    config.optimizer.params.model = model
    optimizer = instantiate(config.optimizer)
    config.optimizer.params.model = None  # the config stays a description: it can be copied, saved and used again
    parallel = create_ddp_model(model, **_ddp_options(config))
    trainer = Trainer(
        parallel,
        loader,
        optimizer,
        accumulate=get(config, "train.accumulate", 1),
        scale_loss=precision_of(config) == "fp16",
        clip_norm=get(config, "train.clip_grad_norm"),
    )
    checkpointer = DetectorCheckpointer(
        model, config.train.output_dir, new_weights=tuple(get(config, "train.new_weights", ())), trainer=trainer
    )
    trainer.register_hooks(_hooks(config, model=parallel, trainer=trainer, checkpointer=checkpointer, evaluation=evaluation))
    checkpointer.resume_or_load(get(config, "train.init_checkpoint", ""), resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    trainer.train(start, config.train.max_iter)
    return getattr(trainer, "last_evaluation", OrderedDict())


def evaluate(config: DictConfig) -> OrderedDict[str, Any]:
    """Evaluate the weights in `train.init_checkpoint` on the config's test set."""
    checkpoint = get(config, "train.init_checkpoint", "")
    if not checkpoint:
        raise UserError("--eval-only needs weights; pass train.init_checkpoint=FILE")
    check_train_options(config)
    evaluation = Evaluation(config)
    evaluation.loader  # noqa: B018  opened first: missing data are found before the model is built
    model = build_model(config)
    DetectorCheckpointer(model).load(checkpoint)
    return evaluation(model)


def build_model(config: DictConfig) -> nn.Module:
    """The model of the config on its device, its backbone set to the precision of `train.amp`."""
    seed = get(config, "train.seed", -1)
    if seed >= 0:
        _seed_weights(seed)
    precision = precision_of(config)
    if precision != "fp32":
        if not accepts(get(config, "model.backbone"), "train_dtype"):
            raise UserError(f"train.amp asks for {precision}, but model.backbone has no train_dtype; set train.amp.enabled=False")
        config.model.backbone.train_dtype = precision
    try:
        model = instantiate(config.model).to(device_of(config))
    except (ValueError, TypeError, AssertionError, ModuleNotFoundError) as error:
        raise UserError(f"the config's model cannot be built: {str(error) or type(error).__name__}; correct model.*") from error
    logger.info("%s parameters", f"{sum(p.numel() for p in model.parameters()):,}")
    return model


def precision_of(config: DictConfig) -> str:
    """fp32, bf16 or fp16, from `train.amp.{enabled, precision}`."""
    if not get(config, "train.amp.enabled", False):
        return "fp32"
    return get(config, "train.amp.precision", "fp16")


def device_of(config: DictConfig) -> torch.device:
    """`train.device`; "auto" is this process's GPU where there is one."""
    name = get(config, "train.device", "auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"train.device={name}, but no CUDA device is visible; pass train.device=cpu or run on a GPU node")
    return torch.device(name)


def check_train_options(config: DictConfig) -> None:
    """UserError for values that could only fail later."""
    device_of(config)
    checkpoint = get(config, "train.init_checkpoint", "")
    if checkpoint and "://" not in checkpoint and not Path(checkpoint).is_file():
        raise UserError(f"checkpoint {checkpoint} does not exist; correct train.init_checkpoint")
    if precision_of(config) not in PRECISIONS:
        raise UserError(f"train.amp.precision={precision_of(config)} is not one of {', '.join(PRECISIONS)}")
    for key in ("train.max_iter", "train.accumulate", "train.log_period"):
        if get(config, key, 1) < 1:
            raise UserError(f"{key}={get(config, key)} must be at least 1")


def _ddp_options(config: DictConfig) -> dict[str, Any]:
    """`train.ddp`; on the CPU, where a model has no device number, DDP must not be given one."""
    options = OmegaConf.to_container(get(config, "train.ddp", OmegaConf.create({})))
    return options if device_of(config).type == "cuda" else {"device_ids": None, **options}


def _hooks(
    config: DictConfig,
    *,
    model: nn.Module,
    trainer: Trainer,
    checkpointer: DetectorCheckpointer,
    evaluation: Evaluation | None,
) -> list[Any]:
    """Everything that happens around the steps, in the order in which it happens."""
    settings = config.train
    chain: list[Any] = [hooks.IterationTimer(), hooks.LRScheduler(scheduler=instantiate(config.lr_multiplier))]
    if comm.is_main_process():
        period, keep = settings.checkpointer.period, get(settings, "checkpointer.max_to_keep")
        chain.append(hooks.PeriodicCheckpointer(checkpointer, period, max_iter=settings.max_iter, max_to_keep=keep))
    if evaluation is not None:
        chain.append(hooks.EvalHook(get(settings, "eval_period", 0), partial(_evaluate_and_keep, evaluation, model, trainer)))
    if comm.is_main_process():
        writers = default_writers(settings.output_dir, settings.max_iter)
        chain.append(hooks.PeriodicWriter(writers, period=get(settings, "log_period", 20)))
    return chain


def _evaluate_and_keep(evaluation: Evaluation, model: nn.Module, trainer: Trainer) -> OrderedDict[str, Any]:
    trainer.last_evaluation = evaluation(model)
    return trainer.last_evaluation


def _seed_weights(seed: int) -> None:
    """The same initial weights on every rank, whatever each drew before."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
