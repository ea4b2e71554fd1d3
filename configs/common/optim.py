"""AdamW with layer-wise learning-rate decay, the two schedules of the published recipes, and one for short runs."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler, get_default_optimizer_params
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from omegaconf import DictConfig

from eva02_det.engine.optim import LayerDecay, build_adamw

WARMUP_FACTOR = 0.001  # of the learning rate, where every warm-up starts


def adamw(lr: float, *, depth: int, layer_decay: float = 1.0, weight_decay: float = 0.1) -> DictConfig:
    """AdamW; weight decay on every parameter, norms and biases included (specification 7.3).

    lr: of everything outside the backbone; block i of `depth` learns with lr x layer_decay^(depth - i), the embeddings with
    lr x layer_decay^(depth + 1).
    """
    return L(build_adamw)(
        params=L(get_default_optimizer_params)(
            # model is set when the optimiser is built
            base_lr="${..lr}",
            weight_decay="${..weight_decay}",
            weight_decay_norm=None,
            lr_factor_func=L(LayerDecay)(rate=layer_decay, depth=depth),
        ),
        lr=lr,
        betas=[0.9, 0.999],
        eps=1e-8,
        weight_decay=weight_decay,
        fused="auto",
    )


def step_schedule(max_iter: int, *, milestones: tuple[int, ...], warmup: int = 1000) -> DictConfig:
    """Factor 1, then a tenth at each milestone; `warmup` iterations rise linearly from 0.001 (specification 7.1)."""
    values = [0.1**i for i in range(len(milestones) + 1)]
    steps = L(MultiStepParamScheduler)(values=values, milestones=list(milestones), num_updates=max_iter)
    return _warmed_up(steps, warmup, max_iter)


def constant_schedule(max_iter: int, *, warmup: int) -> DictConfig:
    """Factor 1 after `warmup` iterations that rise linearly from 0.001 (Tables 32 and 33)."""
    # ConstantParamScheduler refuses to be asked for the point behind the last step, which the scheduler hook does
    return _warmed_up(L(CosineParamScheduler)(start_value=1.0, end_value=1.0), warmup, max_iter)


def cosine_schedule(max_iter: int, *, warmup: int) -> DictConfig:
    """Factor 1 falling to 0.01 along a half cosine, after `warmup` iterations that rise linearly from 0.001."""
    return _warmed_up(L(CosineParamScheduler)(start_value=1.0, end_value=0.01), warmup, max_iter)


def _warmed_up(scheduler: DictConfig, warmup: int, max_iter: int) -> DictConfig:
    return L(WarmupParamScheduler)(scheduler=scheduler, warmup_length=warmup / max_iter, warmup_factor=WARMUP_FACTOR)
