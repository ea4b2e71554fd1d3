"""What a run sees of its steps: batches with the time waited for them, and the numbers of the steps since the last look."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from detectron2.utils import comm

from eva02_det.utils.broken import account_of_all
from eva02_det.utils.errors import UserError
from eva02_mim.guard import Guard, to_host
from eva02_mim.loader import MimLoader
from eva02_mim.progress import Speed
from eva02_mim.step import Outcome


class Watch:
    """Speed, guard and data of a run.

    Args:
        rate: step -> learning rate.
    """

    def __init__(self, loader: MimLoader[Any], guard: Guard, speed: Speed, rate: Callable[[int], float]) -> None:
        self.loader, self.guard, self.speed, self.rate = loader, guard, speed, rate

    def next_of(self, batches: Iterator[Any]) -> Any:
        """The next batch. An error of the data is said by the process that has it: of the others only the first is heard."""
        since = time.perf_counter()
        try:
            drawn = next(batches)
        except UserError as error:
            if not comm.is_main_process():
                sys.stderr.write(f"error in process {comm.get_rank()}: {error}\n")
            raise
        self.speed.step(waited_s=time.perf_counter() - since)
        return drawn

    def look(self, done: int, window: list[Outcome]) -> dict[str, float]:
        """Numbers of the steps in `window`, which is emptied; here the host waits for the device. The guard sees each step."""
        losses, norms, flags = to_host(window)
        numbers = self.speed.measured()
        self.speed.restart()
        self.guard.observe(done - len(window), window, flags)
        window.clear()
        taken = [pair for pair, (skipped, _) in zip(zip(losses, norms), flags) if not skipped]
        columns = zip(*taken) if taken else ((math.nan,), (math.nan,))
        numbers["loss"], numbers["grad_norm"] = (sum(column) / len(column) for column in columns)
        numbers |= {"lr": self.rate(done - 1), "epoch": done / self.loader.steps_per_epoch}
        return numbers | {"skipped": self.guard.skipped, "broken_images": account_of_all(self.loader.broken).count}
