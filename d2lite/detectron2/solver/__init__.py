"""Learning-rate schedules and parameter groups."""

from .build import get_default_optimizer_params
from .lr_scheduler import LRMultiplier, WarmupParamScheduler

__all__ = ["LRMultiplier", "WarmupParamScheduler", "get_default_optimizer_params"]
