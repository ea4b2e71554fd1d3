"""Learning rate of every step: a linear warm-up, then half a cosine (specification 6.2)."""

import math
from dataclasses import dataclass

from eva02_det.utils.errors import UserError


@dataclass(frozen=True)
class WarmupCosine:
    """Step -> learning rate.

    The warm-up of n steps is evenly spaced from 0 to the peak, both included: the first update has a rate of exactly 0, the
    n-th the peak. The cosine over the other steps begins at the peak again and approaches `floor` without reaching it.

    Args:
        peak: the largest rate, absolute: it does not depend on the batch.
        floor: the rate that the cosine approaches.
        steps: of the whole run.
        warmup: steps of it that rise.
    """

    peak: float
    floor: float
    steps: int
    warmup: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.warmup <= self.steps:
            raise UserError(
                f"a schedule of {self.steps} steps with {self.warmup} of warm-up cannot be; the warm-up must fit into the run: "
                f"raise train.epochs or train.max_steps, or lower schedule.warmup_epochs"
            )

    def __call__(self, step: int) -> float:
        """Learning rate of the update number `step`, from 0; the rate of the last step beyond the end."""
        step = min(step, self.steps - 1)
        if step < self.warmup:
            return self.peak * step / (self.warmup - 1) if self.warmup > 1 else 0.0
        progress = (step - self.warmup) / (self.steps - self.warmup)
        return self.floor + 0.5 * (self.peak - self.floor) * (1 + math.cos(math.pi * progress))
