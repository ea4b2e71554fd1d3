"""What may go wrong in a step: losses or gradients that are not finite, and loader workers that die."""

import json
import logging
import os
import re
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from eva02_det.utils.errors import UserError

FAULTS_FILE = "faults.jsonl"
SHOWN = 8  # names in a message
NOTICE_S = 1.0
# as torch words it; the process is that of a worker
_DEAD_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? (\d+)[^)]*\) (?:is killed by signal: (.*?)\.|exited unexpectedly)")
_SIGNALS = {signal.strsignal(number): f"{signal.Signals(number).name} ({number})" for number in signal.Signals}
logger = logging.getLogger("eva02_det")


class Faults:
    """Counts steps that were left out because they were not finite. All ranks see the same, so that all stop at the same step.

    Args:
        limit: faulty steps in a row that are let pass; the next one ends the run.
        folder: of the run; the images of every faulty step are written to `faults.jsonl` there. None: nowhere.
    """

    def __init__(self, limit: int = 0, folder: str | Path | None = None) -> None:
        self.limit = limit
        self.file = None if folder is None else Path(folder) / FAULTS_FILE
        self.in_a_row = 0
        self.skipped = 0

    def passed(self) -> None:
        """A step was finite."""
        self.in_a_row = 0

    def add(self, iteration: int, reason: str, batches: Sequence[Any]) -> None:
        """Account for a faulty step; every rank calls this with its own reason ("" for none) and images.

        Raises:
            UserError: in all ranks, after more than `limit` faults in a row.
        """
        self.in_a_row += 1
        self.skipped += 1
        found = comm.all_gather({"rank": comm.get_rank(), "reason": reason, "images": list(_names(batches))})
        if self.file is not None and comm.is_main_process():
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"iteration": iteration, "ranks": found}) + "\n")
        guilty = [one for one in found if one["reason"]] or found
        said = f"{guilty[0]['reason'] or 'gradients that are not finite'}, with {_listed(guilty)}"
        where = "" if self.file is None else f" (all in {self.file})"
        if self.in_a_row > self.limit:
            before = f", nor the {self.limit} before it" if self.limit else ""
            raise UserError(
                f"step {iteration} was not finite{before}: {said}{where}; look at these images, lower optimizer.lr, or go on "
                "from an older checkpoint"
            )
        logger.warning("step %d is not finite and was left out (%d in a row): %s%s", iteration, self.in_a_row, said, where)

    def state_dict(self) -> dict[str, int]:
        return {"in_a_row": self.in_a_row, "skipped": self.skipped}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.in_a_row, self.skipped = int(state["in_a_row"]), int(state["skipped"])


@contextmanager
def dead_workers_named(loader: Any, kind: type[UserError]) -> Iterator[None]:
    """Turns torch's error for a loader worker that died, which may come up anywhere, into one sentence.

    So too the error of a connection, of who was just fetching a batch from that worker.
    """
    try:
        yield
    except (RuntimeError, EOFError, OSError) as error:
        found = [(int(match[1]), match[2]) for text in _texts(error) if (match := _DEAD_WORKER.search(text))]
        if not found and not isinstance(error, RuntimeError):
            found = list(_fallen(loader))
        if not found:
            raise
        raise kind(_obituary(loader, *next((one for one in found if one[1]), found[0]))) from error


def _texts(error: BaseException | None) -> Iterator[str]:
    """Of an error and of those that it came from: torch tells the signal in the first of them."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def _fallen(loader: Any) -> Iterator[tuple[int, str | None]]:
    """(pid, signal in words) of workers that have ended; the system knows of it a moment after the connection does."""
    draws = getattr(loader, "draws", None)
    until = time.monotonic() + NOTICE_S
    while draws is not None and time.monotonic() < until:
        for pid in filter(None, draws.pids.tolist()):
            try:
                ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            except ChildProcessError:  # of an earlier loader
                continue
            if ended is not None:
                killed = ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
                yield pid, signal.strsignal(ended.si_status) if killed else None
                return
        time.sleep(0.02)


def _obituary(loader: Any, pid: int, signal_text: str | None) -> str:
    number = loader.worker_of(pid) if hasattr(loader, "worker_of") else None
    who = f"loader worker{'' if number is None else f' {number}'} of process {comm.get_rank()} (pid {pid})"
    if signal_text is None:
        return f"{who} is gone; look for its error above, or set dataloader.train.num_workers=0 to see it"
    end = f"was ended by {_SIGNALS.get(signal_text, signal_text)}"
    return f"{who} {end}; if nobody sent it, memory ran out: ask for more, or lower dataloader.train.num_workers; then --resume"


def _names(batches: Iterable[Any]) -> Iterator[str]:
    for batch in batches:
        for item in batch if isinstance(batch, Sequence) else ():
            if isinstance(item, Mapping):
                yield str(item.get("file_name", item.get("image_id", "an image without a name")))


def _listed(found: Sequence[Mapping[str, Any]]) -> str:
    names = [name for one in found for name in one["images"]]
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "") or "images without a name"
