"""Seeds."""

import logging
import os
import random
import time

import numpy as np
import torch

__all__ = ["seed_all_rng"]


def seed_all_rng(seed: int | None = None) -> None:
    """Seed Python, NumPy and PyTorch. None: a seed from the clock, the process id and the system, which is logged."""
    if seed is None:
        seed = (time.time_ns() // 1000 + os.getpid() + int.from_bytes(os.urandom(2), "big")) % 2**32
        logging.getLogger(__name__).info(f"random seed {seed}")
    random.seed(seed)
    np.random.seed(seed % 2**32)  # NumPy takes 32 bits
    torch.manual_seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)  # for child processes
