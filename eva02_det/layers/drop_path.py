"""Stochastic depth: in training a residual branch is left out for whole samples at random."""

from torch import Tensor, nn


class DropPath(nn.Module):
    """Zero the branch of a sample with probability `rate`, and scale the others so that the expectation stays."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"a drop-path rate lies in [0, 1), not {rate}")
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """[B, ...] -> [B, ...]; the identity in evaluation."""
        if not self.training or self.rate == 0:
            return branch
        keep = branch.new_empty(branch.shape[0], *[1] * (branch.ndim - 1)).bernoulli_(1 - self.rate)
        return branch * (keep / (1 - self.rate))

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """One rate per block, rising linearly from 0 at the first to `rate` at the last."""
    return [rate * i / max(depth - 1, 1) for i in range(depth)]
