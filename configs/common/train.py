"""What every run has: where it writes, how long it goes on, how often it saves, evaluates and reports."""

from omegaconf import DictConfig, OmegaConf


def train_settings(
    max_iter: int,
    *,
    output_dir: str = "output",
    period: int = 5000,
    init_checkpoint: str = "",
    new_weights: tuple[str, ...] = (),
    amp: str | None = None,
    ema_decay: float | None = None,
) -> DictConfig:
    """The `train` node of a config.

    period: of checkpoints and of evaluations, in iterations. init_checkpoint: a file, `hf://owner/name/file` or
    `timm/name`. new_weights: regular expressions of weights that init_checkpoint need not hold. amp: "fp16" or "bf16" for
    the backbone, None for fp32. ema_decay: of the moving average of the weights, None for no average.
    """
    return OmegaConf.create(
        {
            "output_dir": output_dir,
            "init_checkpoint": init_checkpoint,
            "new_weights": list(new_weights),
            "max_iter": max_iter,
            "seed": 0,  # negative: another one each time
            "device": "auto",
            # images a step; null: those of the recipe. Another number changes learning rate and schedule (engine/scaling.py)
            "batch": None,
            "memory_gib": None,  # of one GPU; null: what the GPU has
            "lr_rule": "sqrt",  # of the learning rate where `batch` is set: sqrt, linear or none
            "accumulate": 1,  # loader batches per optimiser step
            "clip_grad_norm": None,
            "max_faults": 10,  # steps in a row that may be not finite, and are left out
            # the backbone's precision; RPN and heads always run in fp32 (specification 3.6)
            "amp": {"enabled": amp is not None, "precision": amp or "bf16"},
            "ddp": {"broadcast_buffers": False, "find_unused_parameters": False, "fp16_compression": amp is not None},
            # moving average of the weights; which weights are evaluated while training, and by --eval-only: ema, raw or both
            "ema": {"decay": ema_decay, "evaluate": "both", "eval_only": "raw"},
            # last files to stay, null for all; for good, the first after each `every` iterations; written beside the training
            "checkpointer": {"period": period, "max_to_keep": 3, "every": None, "asynchronous": False},
            "eval_period": period,
            "log_period": 20,
            # curves on Weights & Biases, once a project is named. mode: online, offline; null: WANDB_MODE, else offline
            "wandb": {"project": None, "entity": None, "name": None, "mode": None},
            "cudnn_benchmark": False,
        }
    )
