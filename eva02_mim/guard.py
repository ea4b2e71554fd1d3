"""Watches for steps that are not finite: names the images, and ends a run that does not recover."""

import logging
from collections.abc import Callable, Sequence

import torch
from detectron2.utils import comm

from eva02_det.utils.errors import UserError
from eva02_mim.parallel import sum_over_ranks
from eva02_mim.step import Outcome

SHOWN = 8  # names in a message
logger = logging.getLogger(__name__)


class Guard:
    """Counts skipped steps. All ranks see the same flags, so that all stop at the same step.

    Args:
        limit: faulty steps in a row that are let pass; the next one ends the run. An overflow that the loss scale of fp16
            mends is no fault.
        name: number of a sample -> what to call it in a message.
    """

    def __init__(self, limit: int, name: Callable[[int], str] = str) -> None:
        self.limit = limit
        self.in_a_row = 0
        self.skipped = 0
        self._name = name

    def observe(self, first: int, outcomes: Sequence[Outcome], flags: Sequence[tuple[bool, bool]]) -> None:
        """Steps from `first` on, with (skipped, fault) of each on the host; every rank must call this.

        Raises:
            UserError: in all ranks, after more than `limit` faults in a row.
        """
        for step, (outcome, (skipped, fault)) in enumerate(zip(outcomes, flags), start=first):
            self.skipped += skipped
            if not fault:
                self.in_a_row = 0
                if skipped:
                    logger.info("step %d: gradients overflowed; the loss scale was lowered and the step left out", step)
                continue
            self.in_a_row += 1
            names = self._suspects(outcome)
            if self.in_a_row > self.limit:
                raise UserError(
                    f"step {step} and the {self.limit} before it were not finite, the last one with {names}; look at these "
                    f"images, lower optimizer.lr or go on from an older checkpoint"
                )
            logger.warning("step %d is not finite and was left out (%d in a row): %s", step, self.in_a_row, names)

    def state_dict(self) -> dict[str, int]:
        return {"in_a_row": self.in_a_row, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.in_a_row, self.skipped = state["in_a_row"], state["skipped"]

    def _suspects(self, outcome: Outcome) -> str:
        """The images with values that are not finite, on any rank; all of the step where only gradients were not."""
        wrong = outcome.wrong.cpu()
        chosen = outcome.sample[wrong] if bool(wrong.any()) else outcome.sample[:0]
        found = [name for names in comm.all_gather([self._name(int(n)) for n in chosen]) for name in names]
        if found:
            return f"{len(found)} images whose features or predictions are not finite: {_listed(found)}"
        batch = [name for names in comm.all_gather([self._name(int(n)) for n in outcome.sample[:SHOWN]]) for name in names]
        return f"finite predictions but gradients that are not, of a batch with {_listed(batch)}"


def to_host(outcomes: Sequence[Outcome]) -> tuple[list[float], list[float], list[tuple[bool, bool]]]:
    """Losses averaged over the ranks, norms, and (skipped, fault) of steps: the one place where the host waits."""
    losses = sum_over_ranks(torch.stack([outcome.loss.float() for outcome in outcomes])) / comm.get_world_size()
    rest = [torch.stack([getattr(o, key).float() for o in outcomes]) for key in ("norm", "skipped", "fault")]
    rows = torch.stack([losses, *rest]).tolist()
    return rows[0], rows[1], [(bool(skipped), bool(fault)) for skipped, fault in zip(rows[2], rows[3])]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
