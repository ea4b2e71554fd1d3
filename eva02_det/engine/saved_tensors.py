"""Counts what a forward pass keeps for its backward pass, also as a GPU would keep it and without any memory."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# what CUDA's mixed precision computes in the low precision and in fp32, as far as detectors use it
IN_LOW = (F.linear, F.conv2d, F.conv_transpose2d, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.einsum)
IN_FULL = (F.layer_norm, torch.layer_norm, F.softmax, torch.softmax, Tensor.softmax)


def saved_bytes(function: Callable[..., Any], *inputs: Any) -> int:
    """Bytes that calling `function` keeps for a backward pass, weights not counted and shared storage counted once.

    Tensors without memory (device "meta") do; their numbers are not needed.
    """
    kept: dict[int, Any] = {}

    def remember(tensor: Tensor) -> Tensor:
        if not isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, _as_it_is), torch.enable_grad():
        result = function(*inputs)  # held, so that nothing is freed before it is counted
        total = sum(storage.nbytes() for storage in kept.values())
    del result
    return total


def saved_per_image(net: nn.Module, side: int, *, mixed: bool) -> int:
    """Bytes that `net` (on the meta device) would keep for each square image on a GPU with a fused attention kernel.

    mixed: under mixed precision. What is kept once, such as weights in low precision, is not counted, nor is the image.
    """
    with GpuLike(mixed=mixed):
        one, two = (saved_bytes(net, torch.empty(count, 3, side, side, device="meta")) for count in (1, 2))
    return two - one - (2 if mixed else 4) * 3 * side**2


class GpuLike(TorchFunctionMode):
    """Computes in the precision that a GPU would, and keeps of attention what a fused kernel keeps, whatever the device."""

    def __init__(self, *, mixed: bool) -> None:
        super().__init__()
        self.mixed = mixed

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _FusedAttention.apply(*_cast(args[:3], torch.bfloat16 if self.mixed else None))
        if self.mixed and func in IN_LOW:
            return func(*_cast(args, torch.bfloat16), **options)
        if self.mixed and func in IN_FULL:
            return func(*_cast(args, torch.float32), **options)
        return func(*args, **options)


class _FusedAttention(torch.autograd.Function):
    """Keeps its inputs, its result and a number for each query and head. Computes nothing."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # as the kernels lay it out: the heads of a token side by side
        result = v.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3]).transpose(1, 2)
        ctx.save_for_backward(q, k, v, result, q.new_empty(q.shape[:3], dtype=torch.float32))
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError("this attention only counts what it would keep")


def _cast(values: Sequence[Any], dtype: torch.dtype | None) -> list[Any]:
    """The values, tensors of floating point in `dtype`; None leaves all as they are."""
    if dtype is None:
        return list(values)
    return [value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value for value in values]


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor
