"""Says what a run would do, from its config alone: nothing is loaded and no GPU is used."""

import copy

from omegaconf import DictConfig

from eva02_det.engine.scaling import apply_scaling


def dry_run(config: DictConfig, processes: int) -> str:
    """Several lines of text. The config itself is left alone."""
    config = copy.deepcopy(config)
    return "\n".join(apply_scaling(config, processes))
