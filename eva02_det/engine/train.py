"""A training or evaluation run of a LazyConfig, from the config to the last checkpoint."""

import logging
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.engine import create_ddp_model, hooks
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn

from eva02_det.checkpoint.checkpointer import CheckpointHook, DetectorCheckpointer
from eva02_det.checkpoint.hub import find_file
from eva02_det.checkpoint.io import read_file, state_dict_of
from eva02_det.checkpoint.load import check_source, load_weights
from eva02_det.engine.architecture import for_inference
from eva02_det.engine.ema import EmaHook, ModelEma
from eva02_det.engine.evaluate import WEIGHTS, Evaluation, Pass, Results, prefixed
from eva02_det.engine.faults import Faults
from eva02_det.engine.inputs import require_classes
from eva02_det.engine.model_folder import is_model_folder
from eva02_det.engine.scoring import EvaluationHook
from eva02_det.engine.stopping import StopHook
from eva02_det.engine.trace import LossTrace
from eva02_det.engine.tracker import Tracking
from eva02_det.engine.trainer import Trainer
from eva02_det.engine.tta import tta_wrapper
from eva02_det.launch import preemption
from eva02_det.launch.process_group import leave
from eva02_det.utils.config import accepts, get
from eva02_det.utils.errors import UserError
from eva02_det.utils.randomness import key_of, seed_generators
from eva02_det.utils.wandb_run import forget_run

PRECISIONS = ("fp32", "bf16", "fp16")
logger = logging.getLogger("eva02_det")


def train(config: DictConfig, *, resume: bool = False) -> Results:
    """Train to `train.max_iter`, evaluating every `train.eval_period`; returns the last evaluation, in the main process.

    Data are opened before the model is built: what is missing is found before a GPU is used, and a loss that depends on
    the data set (federated) knows it. At the end the ranks leave their process group: see `EvaluationHook`.

    A run that was stopped anywhere and goes on with `resume` computes what it would have computed without: the next images,
    augmented as they would have been, the next random numbers, the same losses. Told to stop (see `preemption`), it saves after
    the step and raises Stopped.
    """
    check_train_options(config)
    if not resume:
        forget_run(config.train.output_dir)
    start = get(config, "train.init_checkpoint", "")
    resuming = resume and DetectorCheckpointer(nn.Identity(), config.train.output_dir).has_checkpoint()
    if start and not resuming:
        check_source(start)
    loader = _training_data(config)
    evaluation = Evaluation(config) if get(config, "dataloader.evaluator") is not None else None
    if evaluation is not None:
        evaluation.open()
    model = build_model(config)
    if (seed := get(config, "train.seed", -1)) >= 0:
        seed_generators(key_of("steps", seed, comm.get_rank()))  # each rank drops other paths and samples other proposals
    average = _average_of(config, model)
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
        faults=Faults(get(config, "train.max_faults", 0), config.train.output_dir),
    )
    saved = {"trainer": trainer, **({"ema_state": average} if average is not None else {})}
    new_weights = tuple(get(config, "train.new_weights", ()))
    settings = get(config, "train.checkpointer")
    checkpointer = DetectorCheckpointer(
        model,
        config.train.output_dir,
        keep=get(settings, "max_to_keep"),
        every=get(settings, "every"),
        asynchronous=get(settings, "asynchronous", False),
        new_weights=new_weights,
        **saved,
    )
    trainer.register_hooks(_hooks(config, trainer, checkpointer, evaluation, average))
    checkpointer.resume_or_load(start, resume=resume)
    if average is not None and not resuming:
        average.restart(model)
    with preemption.watch():
        trainer.train(trainer.iter + 1 if resuming else 0, config.train.max_iter)
    return getattr(trainer, "last_evaluation", {})


def evaluate(config: DictConfig) -> Results:
    """Evaluate the weights in `train.init_checkpoint` on the config's test set; returns the metrics, in the main process.

    `train.ema.eval_only` says which weights of the file: "raw", "ema" or "both"; a node `tta` asks for test-time augmentation,
    see `tta_wrapper`. The ranks write what they found and leave their process group; the main process alone scores.
    """
    evaluation, passes = predict(config)
    if not passes:
        return {}
    results: Results = {}
    for one in passes:
        results |= prefixed(one.prefix, _scored(one.folder) if one.results is None else one.results)
    evaluation.report(results)
    return results


def predict(config: DictConfig) -> tuple[Evaluation, list[Pass]]:
    """The part of `evaluate` before the scoring. The passes are for the main process; the others get none."""
    checkpoint = get(config, "train.init_checkpoint", "")
    if not checkpoint:
        raise UserError("--eval-only needs weights; pass train.init_checkpoint=FILE")
    check_train_options(config)
    which = _evaluated_weights(config, checkpoint)
    augmented = tta_wrapper(config)
    evaluation = Evaluation(config)
    evaluation.open()
    require_classes(config)
    config.model = for_inference(config.model)
    model = build_model(config)
    account = load_weights(model, checkpoint, which="ema" if which == "ema" else "model")
    if account.new:
        raise UserError(
            f"checkpoint {checkpoint} ({account.layout}) is no whole detector: {len(account.new)} weights would stay random, "
            f"first {next(iter(account.new))}; pass the checkpoint of a trained detector"
        )
    average = None
    if which == "both":
        average = ModelEma(model)
        average.load_state_dict(state_dict_of(read_file(find_file(checkpoint)), checkpoint, "ema"))
    with preemption.watch():
        passes = evaluation.passes(augmented(model), evaluation.home, which=which, average=average)
    is_main = comm.is_main_process()
    leave()
    return evaluation, passes if is_main else []


def build_model(config: DictConfig) -> nn.Module:
    """The model of the config on its device, its backbone set to the precision of `train.amp`."""
    seed = get(config, "train.seed", -1)
    if seed >= 0:
        seed_generators(seed)  # the same initial weights on every rank, whatever each drew before
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
    for key in ("train.ema.evaluate", "train.ema.eval_only"):
        if get(config, key, "raw") not in WEIGHTS:
            raise UserError(f"{key}={get(config, key)} is not one of {', '.join(WEIGHTS)}")
    if precision_of(config) not in PRECISIONS:
        raise UserError(f"train.amp.precision={precision_of(config)} is not one of {', '.join(PRECISIONS)}")
    for key in ("train.max_iter", "train.accumulate", "train.log_period"):
        if get(config, key, 1) < 1:
            raise UserError(f"{key}={get(config, key)} must be at least 1")


def _training_data(config: DictConfig) -> Any:
    """The training loader, its order decided by `train.seed` unless it has a seed of its own."""
    node, seed = config.dataloader.train, get(config, "train.seed", -1)
    if seed >= 0 and accepts(node, "seed") and node.get("seed") is None:
        node.seed = seed
    return instantiate(node)


def _ddp_options(config: DictConfig) -> dict[str, Any]:
    """`train.ddp`; on the CPU, where a model has no device number, DDP must not be given one."""
    options = OmegaConf.to_container(get(config, "train.ddp", OmegaConf.create({})))
    return options if device_of(config).type == "cuda" else {"device_ids": None, **options}


def _average_of(config: DictConfig, model: nn.Module) -> ModelEma | None:
    """The average that `train.ema` asks for."""
    decay = get(config, "train.ema.decay")
    return None if decay is None else ModelEma(model, decay)


def _evaluated_weights(config: DictConfig, checkpoint: str) -> str:
    """Which weights of the checkpoint to evaluate; UserError where it has them not."""
    which = get(config, "train.ema.eval_only", "raw")
    if is_model_folder(checkpoint):
        return "raw"  # an exported model has one set of weights, chosen when it was exported
    check_source(checkpoint, "model" if which == "raw" else "ema")
    return which


def _scored(folder: Path) -> Results:
    from eva02_det.evaluation.score import score_folder

    return score_folder(folder)


def _hooks(
    config: DictConfig,
    trainer: Trainer,
    checkpointer: DetectorCheckpointer,
    evaluation: Evaluation | None,
    average: ModelEma | None,
) -> list[Any]:
    """Everything that happens around the steps, in the order in which it happens."""
    settings = config.train
    chain: list[Any] = [hooks.IterationTimer(), hooks.LRScheduler(scheduler=instantiate(config.lr_multiplier))]
    if average is not None:
        chain.append(EmaHook(average))
    if comm.is_main_process():
        chain.append(LossTrace(settings.output_dir))
    chain.append(CheckpointHook(checkpointer, settings.checkpointer.period))
    stop = StopHook(checkpointer)
    if evaluation is not None:
        which = "raw" if average is None else get(settings, "ema.evaluate", "both")
        period = get(settings, "eval_period", 0)
        chain.append(EvaluationHook(evaluation, trainer.model, period, which=which, average=average, stop=stop.stop))
    if comm.is_main_process():
        chain.append(Tracking(config))
    return [*chain, stop]
