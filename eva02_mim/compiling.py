"""Whether torch.compile can work on a device, tried before a run depends on it."""

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from eva02_det.utils.errors import UserError

NEEDS = {"cpu": "a C++ compiler (g++, or what CXX names)", "cuda": "triton, which torch's CUDA wheels bring, and a C compiler"}


def require_compiler(device: torch.device) -> None:
    """UserError unless torch.compile makes code for `device`; it takes seconds, which the first compilation would take anyway."""

    def trial(values: Tensor) -> Tensor:
        return values.sin() + 1

    try:
        torch.compile(trial, dynamic=False)(torch.zeros(2, device=device))
    except TorchDynamoException as error:
        why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        needs = NEEDS.get(device.type, "a compiler of torch's")
        raise UserError(
            f"torch.compile does not work on {device} ({why}); it needs {needs} there: install it, or set train.compile=False "
            f"(teacher.compiled=False)"
        ) from error
