"""What every run has: where it writes, how long it goes on, how often it saves, evaluates and reports."""

from omegaconf import DictConfig, OmegaConf


def train_settings(max_iter: int, *, output_dir: str = "output", period: int = 5000) -> DictConfig:
    """The `train` node of a config; `period` is that of checkpoints and of evaluations, in iterations."""
    return OmegaConf.create(
        {
            "output_dir": output_dir,
            "init_checkpoint": "",
            "new_weights": [],  # regular expressions of weights that init_checkpoint need not hold
            "max_iter": max_iter,
            "seed": 0,  # negative: another one each time
            "device": "auto",
            "accumulate": 1,  # loader batches per optimiser step
            "clip_grad_norm": None,
            # the backbone's precision; RPN and heads always run in fp32 (specification 3.6)
            "amp": {"enabled": False, "precision": "bf16"},
            "ddp": {"broadcast_buffers": False, "find_unused_parameters": False, "fp16_compression": False},
            "checkpointer": {"period": period, "max_to_keep": 3},
            "eval_period": period,
            "log_period": 20,
            "cudnn_benchmark": False,
        }
    )
