"""Rotary tables as published files store them, to check those files with; the network computes its own.

Axes: N = side * side tokens (row-major), C channels of one head.
"""

import math

import torch
from torch import Tensor

# how far a sound table may be off: precision of its type; averaging by 0.9999 lets constants drift by up to 1e4 roundings
TOLERANCE = {torch.float64: 2e-5, torch.float32: 2e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
DRIFT = 2e-3
SPANS = range(1, 65)  # reference lengths to recognise in a table that is not the model's: 16 published, 14 and 32 likely mistakes


def stored_table(side: int, channels: int, function: str, span: float = 16) -> Tensor:
    """cos or sin of every token and channel, [N, C] in float64, every angle twice; a side covers `span` positions."""
    frequencies = 10000.0 ** (-torch.arange(0, channels, 4, dtype=torch.float64) / channels)
    angles = torch.outer(torch.arange(side, dtype=torch.float64) * span / side, frequencies.repeat_interleave(2))
    both = torch.cat((angles.repeat_interleave(side, 0), angles.repeat(side, 1)), -1)
    return both.cos() if function == "cos" else both.sin()


class RotaryTables:
    """Checks the tables of one file, each against the one computed for its own number of tokens.

    Args:
        span: positions that a side covers in the model.
        averaged: whether the tables went through an average, which lets them drift.
    """

    def __init__(self, span: float = 16, *, averaged: bool = False) -> None:
        self.span, self.averaged = span, averaged
        self._seen: dict[tuple[int, torch.Size, str], tuple[Tensor, str | None]] = {}  # tensors kept: their place is their name

    def problem(self, key: str, table: Tensor) -> str | None:
        """What is wrong where `table`, [N, C] or [rows, cols, C], is not the cos or sin (by its key) that the model computes."""
        function = "cos" if key.endswith("cos") else "sin"
        identity = (table.data_ptr(), table.shape, function)
        if identity not in self._seen:  # every block of a published file names the same two tables again
            self._seen[identity] = table, self._compare(table, function)
        return self._seen[identity][1]

    def _compare(self, table: Tensor, function: str) -> str | None:
        stored = table.flatten(0, -2) if table.dim() == 3 else table
        side = math.isqrt(stored.shape[0]) if stored.dim() == 2 else 0
        if not side or side**2 != stored.shape[0] or stored.shape[1] % 4:
            return f"{list(table.shape)} is no rotary table of a square"
        allowed = TOLERANCE.get(stored.dtype, 0.0) + DRIFT * self.averaged
        if _close(stored, stored_table(side, stored.shape[1], function, self.span), allowed):
            return None
        for span in SPANS:
            if _close(stored, stored_table(side, stored.shape[1], function, span), allowed):
                return f"{list(table.shape)} stretches {span} positions over its side, this model {self.span:g}"
        return f"{list(table.shape)} follows no rotary reference length from {SPANS[0]} to {SPANS[-1]}"


def _close(stored: Tensor, computed: Tensor, allowed: float) -> bool:
    return bool(((stored.double() - computed).abs() <= allowed).all())
